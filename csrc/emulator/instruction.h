// What the tables (*.def) say of an operation, and an instruction decoded from its words.
#pragma once

#include <array>
#include <string>
#include <utility>
#include <vector>

#include "types.h"

namespace updp::emulator {

struct Wave;
struct Instruction;
struct Lanes;

// Encodings of the GFX9 instruction set. vop3p is split: the matrix instructions share its words, not its fields.
enum class Encoding : u8 { sop1, sop2, sopk, sopc, sopp, smem, vop1, vop2, vopc, vop3, vop3p, matrix, ds, flat, mubuf };
constexpr int kEncodings = 15;

// As counted by Counters.
enum class Kind : u8 { scalar, vector, matrix, lds, global, scalar_memory, barrier, wait };

// Where the operands of a memory operation stand.
enum class Access : u8 { none, load, store, atomic, exchange_lanes };

struct Operation {
  const char* name;  // without suffixes such as _e32; of flat and mubuf without global_, flat_, scratch_ or buffer_
  Encoding encoding;
  u16 number;        // opcode
  Kind kind;
  Type result;       // none: nothing but perhaps a mask of lanes
  std::array<Type, 3> sources;
  void (*execute)(Wave&, const Instruction&);
  void (*lanes)(Lanes&) = nullptr;      // of vector operations: what one does to 64 lanes, without modifiers
  void (*saturated)(Lanes&) = nullptr;  // the same, clamped to the range of its integers
  u16 cycles = 4;          // of the unit that executes it: a SIMD's vector or matrix unit
  u32 flops = 0;           // of matrix operations
  bool mask_result = false;        // writes a mask of lanes: a carry or the result of a comparison
  bool mask_to_exec = false;       // ... and copies it to EXEC
  bool accumulates = false;        // the last source is the old result, and not encoded
  bool keeps_other_half = false;   // a 16-bit result leaves the other half of its register alone
  bool encoded_constant = false;   // a 32-bit constant follows the instruction's word (v_madmk, v_madak)
  bool only_32_bits = false;       // no vop3 form
  bool scalar_result = false;      // of a vector operation
  bool to_high_half = false;       // the 16-bit result replaces the high half of its register (v_fma_mixhi)
  bool accumulator_source = false; // reads an AGPR (v_accvgpr_read)
  Access access = Access::none;
  u8 bytes = 0;            // a lane, of memory operations; of the two-address LDS ones, of one address
  bool two_addresses = false;      // LDS: offset0 and offset1 count elements
  u8 offset_scale = 1;             // what one of offset0 and offset1 is worth, in elements
};

struct Operand {
  enum class Kind : u8 { none, scalar, vector, constant, special, off };
  Kind kind = Kind::none;
  Type type = Type::none;
  u16 code = 0;             // as in a 9-bit source field
  u16 index = 0;            // first register; of vectors 0-255 are v0-v255, 256-511 are a0-a255
  u8 count = 0;             // registers
  bool negate = false, absolute = false, sign_extend = false;
  u8 select = 6;            // SDWA: byte 0-3, word 4-5, the whole register 6
  u64 value = 0;            // of a constant
  const u32* broadcast = nullptr;  // of a constant, to all lanes: 64 times its low half, 64 times its high half

  explicit operator bool() const { return kind != Kind::none; }
};

// Source fields that are neither registers nor constants.
enum class Special : u16 { shared_base = 235, shared_limit, private_base, private_limit, vccz = 251, execz, scc };

// Some registers that an instruction reads or writes, for the check that their loads have arrived (waits.h).
struct Use {
  u16 first;    // in Waits::pending
  u64 blocks;   // a byte a register: the kinds of load that must not be outstanding
};

enum class Form : u8 { plain, e64, sdwa, dpp };
enum class Space : u8 { flat, scratch, global };

struct Instruction {
  const Operation* operation = nullptr;   // null: not known
  void (*execute)(Wave&, const Instruction&) = nullptr;
  u32 address = 0;          // relative to the image's base
  u8 words = 1;
  Form form = Form::plain;
  Operand result, mask;     // mask: of lanes, written
  std::array<Operand, 4> sources;         // of memory: address, data, more data or base, scalar offset
  std::pair<u32, u32> uses{0, 0};         // first and count in Code::uses
  const Instruction* target = nullptr;    // of a branch

  i32 offset = 0, offset1 = 0;            // of memory, in bytes; of sopp and sopk: the 16-bit constant
  bool glc = false, slc = false, offset_enable = false, index_enable = false, to_lds = false;
  Space space = Space::global;  // of flat operations

  bool clamp = false;
  u8 output_modifier = 0;                 // 0: none, 1: times 2, 2: times 4, 3: half
  u8 op_sel = 0, op_sel_hi = 0;           // a bit a source; op_sel's bit 3: the result's high half
  u8 negate_low = 0, negate_high = 0;
  u8 result_select = 6, result_unused = 0;
  i16 dpp = -1;                           // DPP control, -1: none
  u8 row_mask = 15, bank_mask = 15;
  bool bound_control = false;
  u8 cbsz = 0, abid = 0, blgp = 0;
};

const Operation* find_operation(Encoding encoding, unsigned number);
std::vector<const Operation*> all_operations();

// Decodes the instruction that begins at words[0]; `available` words may be read. What is not known has no operation.
Instruction decode(const u32* words, size_t available, u32 address);

// As llvm-objdump writes it: mnemonic and operands.
std::pair<std::string, std::string> disassemble(const Instruction& instruction);

// "v4", "s[2:3]", "a[0:15]", "vcc": a register by its index as in Operand::index.
std::string register_name(Operand::Kind kind, unsigned index, unsigned count);

}  // namespace updp::emulator
