// Launches: the state that waves begin with, and the order in which workgroups and waves execute.

#include <algorithm>
#include <atomic>
#include <functional>
#include <mutex>
#include <numeric>
#include <random>
#include <thread>

#include "program.h"

namespace updp::emulator {
namespace {

constexpr u32 kLdsBytes = 65536, kMaxLanes = 1024;

// hsa_kernel_dispatch_packet_t.
struct alignas(64) DispatchPacket {
  u16 header = 2, dimensions = 3;
  u16 workgroup[3];
  u16 reserved0 = 0;
  u32 grid[3];  // lanes
  u32 private_bytes, group_bytes;
  u64 kernel_object = 0, kernarg, reserved2 = 0, completion_signal = 0;
};
static_assert(sizeof(DispatchPacket) == 64);

// The argument segment, 64-byte aligned, with the hidden arguments filled in.
class ArgumentSegment {
 public:
  ArgumentSegment(const Kernel& kernel, const Launch& launch) {
    bytes_ = std::max<size_t>(kernel.kernarg_bytes, launch.kernarg.size());
    storage_.assign(bytes_ + 64, 0);
    begin_ = storage_.data() + (64 - reinterpret_cast<u64>(storage_.data()) % 64) % 64;
    std::copy(launch.kernarg.begin(), launch.kernarg.end(), begin_);
    for (const Argument& argument : kernel.arguments) {
      if (!argument.hidden()) {
        if (argument.offset + argument.size > launch.kernarg.size()) {
          throw Fault(kernel.name + ": the argument segment has " + std::to_string(launch.kernarg.size()) +
                      " bytes; argument " + argument.name + " ends at byte " +
                      std::to_string(argument.offset + argument.size));
        }
        continue;
      }
      const u64 value = hidden_value(argument.value_kind, launch);
      std::memcpy(begin_ + argument.offset, &value, std::min<u32>(argument.size, sizeof value));
    }
  }
  u64 begin() const { return reinterpret_cast<u64>(begin_); }
  u64 end() const { return begin() + bytes_; }

 private:
  static u64 hidden_value(const std::string& kind, const Launch& launch) {
    const auto begins = [&](const char* prefix) { return kind.rfind(prefix, 0) == 0; };
    const int axis = kind.back() - 'x';
    if (begins("hidden_block_count_")) return launch.grid[axis];
    if (begins("hidden_group_size_")) return launch.block[axis];
    if (kind == "hidden_grid_dims") return 3;
    if (kind == "hidden_shared_base") return kSharedBase;
    if (kind == "hidden_private_base") return kPrivateBase;
    return 0;  // offsets and remainders are 0; services of the host (printf, heap, queues) are absent
  }

  std::vector<u8> storage_;
  u8* begin_;
  size_t bytes_;
};

struct Plan {
  const Code& code;
  const Kernel& kernel;
  const Launch& launch;
  u32 lanes, waves, lds_bytes, registers;
  std::vector<u32> user_scalars;
  std::vector<Memory::Named> memory;
  std::vector<u64> shuffled;   // workgroups, in the order they execute; empty if not shuffled
  u64 first, count;

  u64 workgroup(u64 turn) const {
    if (!shuffled.empty()) return shuffled[turn];
    return launch.workgroups == Order::backward ? first + count - 1 - turn : first + turn;
  }
};

// What the kernel's descriptor asks for in its first scalar registers.
std::vector<u32> user_scalars(const Kernel& kernel, u64 packet, u64 kernarg) {
  std::vector<u32> result;
  const auto add = [&](u64 value) {
    result.push_back(static_cast<u32>(value));
    result.push_back(static_cast<u32>(value >> 32));
  };
  constexpr u32 kScratchDescriptor = 0x00027000 | 1u << 23;  // "add thread id": how buffers of private memory are known
  if (kernel.properties & 1) result = {0, 0, ~0u, kScratchDescriptor};
  if (kernel.properties & 2) add(packet);
  if (kernel.properties & 4) add(0);   // queue
  if (kernel.properties & 8) add(kernarg);
  if (kernel.properties & 16) add(0);  // dispatch id
  if (kernel.properties & 32) add(0);  // flat scratch
  if (kernel.properties & 64) result.push_back(kernel.scratch_bytes);
  return result;
}

// One of the host's threads: executes workgroups, one after the other.
class Worker {
 public:
  Worker(const Plan& plan)
      : plan_(plan), memory_(plan.memory), group_{plan.code, memory_, {}, std::vector<u8>(plan.lds_bytes),
                                                  plan.kernel.scratch_bytes, {}, FirstLevel(plan.launch.l1_bytes)},
        waves_(new Wave[plan.waves]), executions_(plan.code.instructions.size()) {}

  void execute(u64 workgroup) {
    current_workgroup_ = workgroup;
    std::fill(group_.lds.begin(), group_.lds.end(), 0xff);
    group_.first_level.clear();
    for (u32 w = 0; w < plan_.waves; w++) begin_wave(w, workgroup);
    const u64 limit = plan_.launch.max_instructions ? plan_.launch.max_instructions : ~u64{0};
    for (u32 running = plan_.waves; running > 0;) {
      for (u32 turn = 0; turn < plan_.waves; turn++) {
        current_wave_ = plan_.launch.waves == Order::backward ? plan_.waves - 1 - turn : turn;
        Wave& wave = waves_[current_wave_];
        if (wave.state == Wave::State::ended) continue;
        run(wave, executions_.data(), limit);
        if (wave.state == Wave::State::ended) running--;
      }
    }
  }

  std::string describe(const Mistake& mistake) const {
    const Instruction& i = *waves_[current_wave_].pc;
    const auto [mnemonic, operands] = disassemble(i);
    char place[32];
    std::snprintf(place, sizeof place, "0x%x", i.address);
    return plan_.kernel.name + ": workgroup " + std::to_string(current_workgroup_) + ", wave " +
           std::to_string(current_wave_) + ", pc " + place +
           (mistake.lane < 0 ? "" : ", lane " + std::to_string(mistake.lane)) + ": " + mnemonic +
           (operands.empty() ? "" : " " + operands) + ": " + mistake.what;
  }

  const std::vector<u64>& executions() const { return executions_; }
  const MemoryCounters& memory_counters() const { return group_.counters; }

 private:
  void begin_wave(u32 index, u64 workgroup) {
    Wave& wave = waves_[index];
    wave.group = &group_;
    wave.reset(plan_.registers);
    wave.pc = plan_.code.at(plan_.kernel.entry);

    const auto &grid = plan_.launch.grid, &block = plan_.launch.block;
    const u32 position[3] = {static_cast<u32>(workgroup % grid[0]), static_cast<u32>(workgroup / grid[0] % grid[1]),
                             static_cast<u32>(workgroup / grid[0] / grid[1])};
    u32* next = std::copy(plan_.user_scalars.begin(), plan_.user_scalars.end(), wave.scalars);
    for (int axis = 0; axis < 3; axis++) {
      if (plan_.kernel.rsrc2 >> (7 + axis) & 1) *next++ = position[axis];
    }
    if (plan_.kernel.rsrc2 >> 10 & 1) *next++ = index;
    if (plan_.kernel.rsrc2 & 1) *next++ = 0;  // the wave's offset in private memory

    const u32 first_lane = kLanes * index, lanes = std::min<u32>(kLanes, plan_.lanes - first_lane);
    wave.set_pair(kExec, lanes == kLanes ? ~u64{0} : (u64{1} << lanes) - 1);
    const u32 axes = plan_.kernel.rsrc2 >> 11 & 3;  // of the lane's position that are wanted beside x
    for (int l = 0; l < kLanes; l++) {
      const u32 lane = first_lane + l;
      wave.vectors[0][l] = lane % block[0];
      if (axes >= 1) wave.vectors[1][l] = lane / block[0] % block[1];
      if (axes >= 2) wave.vectors[2][l] = lane / block[0] / block[1];
    }
  }

  const Plan& plan_;
  Memory memory_;
  Workgroup group_;
  std::unique_ptr<Wave[]> waves_;
  std::vector<u64> executions_;
  u64 current_workgroup_ = 0;
  u32 current_wave_ = 0;
};

// What follows from how often each instruction was executed.
void add_executions(const std::vector<Instruction>& instructions, const std::vector<u64>& executions, Counters& sum) {
  for (size_t k = 0; k < executions.size(); k++) {
    const u64 times = executions[k];
    if (!times) continue;
    const Operation& operation = *instructions[k].operation;
    sum.instructions += times;
    switch (operation.kind) {
      case Kind::scalar: sum.scalar += times; break;
      case Kind::vector:
        sum.vector += times;
        sum.vector_cycles += times * operation.cycles;
        break;
      case Kind::matrix:
        sum.matrix += times;
        sum.matrix_cycles += times * operation.cycles;
        sum.matrix_flops += times * operation.flops;
        break;
      case Kind::lds: sum.lds += times; break;
      case Kind::global: sum.global += times; break;
      case Kind::scalar_memory: sum.scalar_memory += times; break;
      case Kind::barrier: sum.barriers += times; break;
      case Kind::wait: sum.waits += times; break;
    }
  }
}
void add_memory(const MemoryCounters& counters, Counters& sum) {
  sum.lds_bytes += counters.lds_bytes;
  sum.lds_cycles += counters.lds_cycles;
  sum.lds_conflict_cycles += counters.lds_conflict_cycles;
  sum.global_loaded_bytes += counters.loaded_bytes;
  sum.global_stored_bytes += counters.stored_bytes;
  sum.global_lines += counters.lines;
  sum.l2_lines += counters.second_level_lines;
}

void check(const Kernel& kernel, const Launch& launch, u64 lanes, u64 lds_bytes) {
  const auto refuse = [&](const std::string& why) { throw Fault(kernel.name + ": " + why); };
  const u32 most = kernel.max_workgroup_size ? std::min(kernel.max_workgroup_size, kMaxLanes) : kMaxLanes;
  if (lanes == 0 || lanes > most) {
    refuse("a workgroup of " + std::to_string(lanes) + " lanes; it can have 1 to " + std::to_string(most));
  }
  if (lds_bytes > kLdsBytes) {
    refuse(std::to_string(lds_bytes) + " bytes of LDS; a workgroup can have " + std::to_string(kLdsBytes));
  }
  if (launch.waves == Order::shuffled) refuse("the waves of a workgroup execute forward or backward, not shuffled");
}

std::vector<u64> shuffle(u64 first, u64 count, u64 seed) {
  std::vector<u64> order(count);
  std::iota(order.begin(), order.end(), first);
  std::mt19937_64 random(seed);
  for (u64 k = count; k > 1; k--) std::swap(order[k - 1], order[random() % k]);
  return order;
}

}  // namespace

Counters Program::launch(const Launch& launch, Executions* executions) const {
  const Kernel& kernel = impl_->object.kernel(launch.kernel);
  const u64 lanes = u64{launch.block[0]} * launch.block[1] * launch.block[2];
  const u64 lds_bytes = u64{kernel.lds_bytes} + launch.dynamic_lds;
  check(kernel, launch, lanes, lds_bytes);
  const u64 grid = u64{launch.grid[0]} * launch.grid[1] * launch.grid[2];

  const ArgumentSegment arguments(kernel, launch);
  DispatchPacket packet;
  for (int axis = 0; axis < 3; axis++) {
    packet.workgroup[axis] = static_cast<u16>(launch.block[axis]);
    packet.grid[axis] = launch.grid[axis] * launch.block[axis];
  }
  packet.private_bytes = kernel.scratch_bytes;
  packet.group_bytes = static_cast<u32>(lds_bytes);
  packet.kernarg = arguments.begin();
  const u64 packet_address = reinterpret_cast<u64>(&packet), image = impl_->code.base;

  Plan plan{impl_->code, kernel, launch, static_cast<u32>(lanes), static_cast<u32>((lanes + kLanes - 1) / kLanes),
            static_cast<u32>(lds_bytes), std::min(256u, 4 * ((kernel.rsrc1 & 63) + 1)),
            user_scalars(kernel, packet_address, arguments.begin()), {}, {}, std::min(launch.first_workgroup, grid), 0};
  plan.count = std::min(launch.workgroup_count, grid - plan.first);
  if (launch.workgroups == Order::shuffled) plan.shuffled = shuffle(plan.first, plan.count, launch.seed);
  for (size_t k = 0; k < launch.memory.size(); k++) {
    plan.memory.push_back({launch.memory[k], "memory range " + std::to_string(k)});
  }
  plan.memory.push_back({{arguments.begin(), arguments.end(), false}, "the argument segment"});
  plan.memory.push_back({{packet_address, packet_address + sizeof packet, false}, "the dispatch packet"});
  for (const updp::Segment& segment : impl_->object.segments) {
    const u64 begin = image + segment.address;
    plan.memory.push_back({{begin, begin + segment.memory_bytes, segment.writable}, "the code object's image"});
  }

  Counters sum{};
  std::vector<u64> executed(impl_->code.instructions.size());
  std::atomic<u64> next{0};
  std::mutex mutex;
  std::string fault;
  const auto work = [&] {
    Worker worker(plan);
    try {
      for (u64 turn; (turn = next++) < plan.count;) worker.execute(plan.workgroup(turn));
    } catch (const Mistake& mistake) {
      next = plan.count;
      const std::lock_guard<std::mutex> lock(mutex);
      if (fault.empty()) fault = worker.describe(mistake);
      return;
    }
    const std::lock_guard<std::mutex> lock(mutex);
    std::transform(executed.begin(), executed.end(), worker.executions().begin(), executed.begin(), std::plus<>());
    add_memory(worker.memory_counters(), sum);
  };
  const unsigned wanted = launch.threads ? launch.threads : std::max(1u, std::thread::hardware_concurrency());
  std::vector<std::thread> threads;
  for (u64 k = 1; k < std::min<u64>(wanted, plan.count); k++) threads.emplace_back(work);
  work();
  for (std::thread& thread : threads) thread.join();
  if (!fault.empty()) throw Fault(fault);
  add_executions(impl_->code.instructions, executed, sum);
  if (executions) {
    for (size_t k = 0; k < executed.size(); k++) {
      if (executed[k]) executions->emplace_back(impl_->code.instructions[k].address, executed[k]);
    }
  }
  sum.workgroups = plan.count;
  sum.waves = plan.count * plan.waves;
  return sum;
}

}  // namespace updp::emulator
