"use strict";
(() => {
  // The theme follows the system until the button says otherwise; where storage is refused, until the page is left.
  const root = document.documentElement, button = document.getElementById("theme"), key = "updp_rt-theme";
  const system = matchMedia("(prefers-color-scheme: dark)");
  const remembered = () => { try { return localStorage.getItem(key); } catch { return null; } };
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const label = () => { button.textContent = isDark() ? "Light theme" : "Dark theme"; };
  const stored = remembered();
  if (stored === "light" || stored === "dark") root.dataset.theme = stored;
  button.hidden = false;
  label();
  system.addEventListener("change", label);
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try { localStorage.setItem(key, root.dataset.theme); } catch { /* not remembered */ }
    label();
  });

  // A chart is one stop of the Tab key; the arrow keys go from mark to mark, and the line below says each.
  for (const figure of document.querySelectorAll("figure.chart")) {
    const readout = figure.querySelector(".readout");
    const say = (mark) => {
      readout.textContent = mark ? mark.querySelector("title").textContent : readout.dataset.hint;
      readout.classList.toggle("said", Boolean(mark));
    };
    say(null);
    for (const plot of figure.querySelectorAll(".plot")) {
      const marks = [...plot.querySelectorAll(".mark")];
      let at = -1;
      const go = (index) => {
        if (marks[at]) marks[at].classList.remove("on");
        at = index;
        if (marks[at]) marks[at].classList.add("on");
        say(marks[at]);
      };
      const last = marks.length - 1;
      const keys = {
        ArrowRight: () => Math.min(last, at + 1), ArrowDown: () => Math.min(last, at + 1),
        ArrowLeft: () => Math.max(0, at - 1), ArrowUp: () => Math.max(0, at - 1),
        Home: () => 0, End: () => last, Escape: () => -1,
      };
      plot.addEventListener("keydown", (event) => {
        if (!(event.key in keys) || event.ctrlKey || event.metaKey || event.altKey) return;
        event.preventDefault();
        go(keys[event.key]());
      });
      plot.addEventListener("blur", () => go(-1));
      plot.addEventListener("pointerover", (event) => {
        const mark = event.target.closest(".mark");
        if (mark) go(marks.indexOf(mark));
      });
    }
  }

  // Tables sort by what their cells hold, the first time upwards.
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
    heads.forEach((head, column) => {
      const sorter = document.createElement("button");
      sorter.type = "button";
      sorter.textContent = head.textContent;
      head.replaceChildren(sorter);
      sorter.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const value = (row) => row.cells[column].dataset.key ?? row.cells[column].textContent;
        const compare = (a, b) => String(value(a)).localeCompare(String(value(b)), undefined, { numeric: true });
        const number = (a, b) => Number(value(a)) - Number(value(b));
        const rows = [...body.rows], numeric = rows.every((row) => !Number.isNaN(Number(value(row))));
        rows.sort(numeric ? number : compare);
        if (down) rows.reverse();
        body.append(...rows);
      });
    });
  }
})();
