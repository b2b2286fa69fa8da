#include "waits.h"

namespace updp::emulator {

void Waits::issue(Queue& queue, Reason reason, const Instruction& by, const Operand& target) {
  // The hardware's counters hold 63 and 15; it stalls at that. Nothing is lost by letting the oldest complete.
  if (queue.count == Queue::kSize) complete(queue, Queue::kSize / 2);
  const Load load{&by, static_cast<u16>(target ? slot(target) : 0), target.count, reason};
  queue.ring[(queue.begin + queue.count++) % Queue::kSize] = load;
  mark(load);
}

void Waits::complete(Queue& queue, unsigned remaining) {
  if (remaining > 0 && queue.unordered > 0) return;
  const unsigned completed = queue.count - remaining;
  for (unsigned i = 0; i < completed; i++) {
    const Load& load = queue.at(i);
    std::memset(pending_.data() + load.first, 0, load.registers);
  }
  queue.begin = (queue.begin + completed) % Queue::kSize;
  queue.count = remaining;
  queue.unordered = 0;
  // Later loads into the same registers are still to come.
  for (const Queue* other : {&vector_, &other_}) {
    for (unsigned i = 0; i < other->count; i++) mark(other->at(i));
  }
}

const Instruction* Waits::outstanding_lds_write() const {
  for (unsigned i = 0; i < other_.count; i++) {
    const Load& load = other_.at(i);
    const bool writes = load.by->operation->access == Access::store || load.by->operation->access == Access::atomic;
    if (load.reason == kLds && writes) return load.by;
  }
  return nullptr;
}

Waits::Culprit Waits::culprit(const Use& use) const {
  for (const Queue* queue : {&vector_, &other_}) {
    for (unsigned i = queue->count; i-- > 0;) {
      const Load& load = queue->at(i);
      for (unsigned slot = load.first; slot < load.first + load.registers; slot++) {
        const unsigned place = slot - use.first;
        if (place < 8 && (use.blocks >> 8 * place & 255 & pending_[slot])) return {load.by, slot, queue == &vector_};
      }
    }
  }
  return {nullptr, 0, false};
}

void Waits::clear() {
  pending_.fill(0);
  vector_.begin = vector_.count = vector_.unordered = 0;
  other_.begin = other_.count = other_.unordered = 0;
}

}  // namespace updp::emulator
