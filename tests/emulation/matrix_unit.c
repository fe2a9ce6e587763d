/* Intel's matrix unit (AMX) in software, for processors without one.

   There its instructions trap. The handler carries them out on registers of its own, one set a thread, and the
   program goes on behind them: what is tested is the code that a processor with the unit would run. What the unit
   refuses (a register without a shape, shapes that do not fit) is refused here, too: the program gets its trap.

   Encodings and arithmetic are those of Intel's Software Developer's Manual, volume 2, under each instruction's
   name. A product's rounding is that of its pseudocode: the sums of a pair's first and of its second products
   begin at zero and are rounded each time, to nearest; only then are they added to one another, and to what was
   there. Numbers below 2^-126 count as zero, coming and going. */

#define _GNU_SOURCE
#include <immintrin.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <ucontext.h>

enum { REGISTERS = 8, LINES = 16, LINE_BYTES = 64, PAIRS = LINE_BYTES / 4 };

/* MXCSR: no trap, to nearest, numbers too small are zero. */
enum { ROUNDING = 0x9fc0 };

typedef struct {
    uint8_t palette, start_line, reserved[14];
    uint16_t line_bytes[REGISTERS], none[8];
    uint8_t lines[REGISTERS], none_either[8];
} Shapes;

typedef union {
    uint8_t bytes[LINES][LINE_BYTES];
    uint32_t words[LINES][PAIRS];
    float numbers[LINES][PAIRS];
} Tile;

/* What the encoding says. Registers of the general kind count from rax = 0 to r15, of the unit's from 0 to 7. */
typedef struct {
    uint8_t opcode, prefix;
    bool in_memory;
    unsigned reg, rm, second;
    uint64_t address, stride, next;
} Instruction;

static _Thread_local Shapes shapes;
static _Thread_local Tile tiles[REGISTERS];
static struct sigaction before;
static uint64_t products;

static const int PLACES[16] = {
    REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
    REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15,
};

static int32_t offset_at(const uint8_t *at) {
    int32_t offset;
    memcpy(&offset, at, sizeof offset);
    return offset;
}

/* Reads an instruction with a three-byte VEX prefix of the map 0F38, W0, 128 bits; false for any other. */
static bool decode(const greg_t *registers, Instruction *found) {
    const uint8_t *at = (const uint8_t *)registers[REG_RIP];
    if (at[0] != 0xc4 || (at[1] & 0x1f) != 2 || (at[2] & 0x84) != 0) return false;
    unsigned reg_high = at[1] & 0x80 ? 0 : 8, index_high = at[1] & 0x40 ? 0 : 8, base_high = at[1] & 0x20 ? 0 : 8;
    unsigned mode = at[4] >> 6, base = at[4] & 7;
    *found = (Instruction){
        .opcode = at[3], .prefix = at[2] & 3, .in_memory = mode != 3,
        .reg = (at[4] >> 3 & 7) + reg_high, .rm = base + base_high, .second = ~(at[2] >> 3) & 15,
    };
    at += 5;
    if (found->in_memory) {
        bool scaled = base == 4, relative = mode == 0 && base == 5;
        if (scaled) {
            unsigned index = (*at >> 3 & 7) + index_high, scale = *at >> 6;
            base = *at++ & 7;
            if (index != 4) found->stride = (uint64_t)registers[PLACES[index]] << scale;
        }
        bool no_base = mode == 0 && base == 5;
        if (!no_base) found->address = (uint64_t)registers[PLACES[base + base_high]];
        if (mode == 1) found->address += (uint64_t)(int64_t)(int8_t)*at++;
        if (mode == 2 || no_base) found->address += (uint64_t)(int64_t)offset_at(at), at += 4;
        if (relative) found->address += (uint64_t)at;
    }
    found->next = (uint64_t)at;
    return true;
}

static bool configure(const Shapes *wanted) {
    static const Shapes nothing;
    if (wanted->palette > 1 || wanted->start_line != 0) return false;
    if (memcmp(wanted->reserved, nothing.reserved, sizeof nothing.reserved)) return false;
    if (memcmp(wanted->none, nothing.none, sizeof nothing.none)) return false;
    if (memcmp(wanted->none_either, nothing.none_either, sizeof nothing.none_either)) return false;
    for (int i = 0; i < REGISTERS; i++) {
        if (wanted->line_bytes[i] > LINE_BYTES || wanted->lines[i] > LINES) return false;
        if (!wanted->line_bytes[i] != !wanted->lines[i]) return false;
    }
    shapes = wanted->palette ? *wanted : nothing;
    memset(tiles, 0, sizeof tiles);
    return true;
}

static bool has_shape(unsigned tile) { return tile < REGISTERS && shapes.palette && shapes.lines[tile]; }

static bool load(unsigned tile, uint64_t address, uint64_t stride) {
    if (!has_shape(tile)) return false;
    memset(&tiles[tile], 0, sizeof *tiles);
    for (int i = 0; i < shapes.lines[tile]; i++, address += stride)
        memcpy(tiles[tile].bytes[i], (const void *)address, shapes.line_bytes[tile]);
    return true;
}

static bool store(unsigned tile, uint64_t address, uint64_t stride) {
    if (!has_shape(tile)) return false;
    for (int i = 0; i < shapes.lines[tile]; i++, address += stride)
        memcpy((void *)address, tiles[tile].bytes[i], shapes.line_bytes[tile]);
    return true;
}

static __m512 first_of(__m512i pairs) { return _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)); }

static __m512 second_of(__m512i pairs) {
    return _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32((int)0xffff0000)));
}

/* Not a part of its caller: the compiler would move arithmetic in front of the change of its rounding. */
static __attribute__((noinline)) void add_products(Tile *out, const Tile *left, const Tile *right, int rows,
                                                   int depth, __mmask16 columns) {
    for (int i = 0; i < rows; i++) {
        __m512 first = _mm512_setzero_ps(), second = _mm512_setzero_ps();
        for (int k = 0; k < depth; k++) {
            __m512i ours = _mm512_set1_epi32((int)left->words[i][k]);
            __m512i theirs = _mm512_loadu_si512(right->words[k]);
            first = _mm512_fmadd_ps(first_of(ours), first_of(theirs), first);
            second = _mm512_fmadd_ps(second_of(ours), second_of(theirs), second);
        }
        __m512 sums = _mm512_add_ps(_mm512_loadu_ps(out->numbers[i]), _mm512_add_ps(first, second));
        _mm512_mask_storeu_ps(out->numbers[i], columns, sums);
    }
}

static bool multiply(unsigned out, unsigned left, unsigned right) {
    if (!has_shape(out) || !has_shape(left) || !has_shape(right)) return false;
    if (out == left || out == right || left == right) return false;
    int columns = shapes.line_bytes[out], depth = shapes.line_bytes[left];
    if (columns % 4 || depth % 4 || shapes.line_bytes[right] != columns) return false;
    if (shapes.lines[left] != shapes.lines[out] || shapes.lines[right] != depth / 4) return false;
    _mm_setcsr(ROUNDING);
    add_products(&tiles[out], &tiles[left], &tiles[right], shapes.lines[out], depth / 4,
                 (__mmask16)((1u << columns / 4) - 1));
    __atomic_fetch_add(&products, 1, __ATOMIC_RELAXED);
    return true;
}

/* False if it is none of the unit's, or one that the unit would refuse. */
static bool carry_out(const Instruction *it) {
    static const Shapes nothing;
    enum { NONE, P66, PF3, PF2 };
    switch (it->opcode << 8 | it->prefix << 1 | it->in_memory) {
    case 0x49 << 8 | NONE << 1 | true: /* LDTILECFG */
        return it->reg == 0 && configure((const Shapes *)(it->address + it->stride));
    case 0x49 << 8 | P66 << 1 | true: /* STTILECFG */
        memcpy((void *)(it->address + it->stride), &shapes, sizeof shapes);
        return it->reg == 0;
    case 0x49 << 8 | NONE << 1: /* TILERELEASE */
        return it->reg == 0 && it->rm == 0 && configure(&nothing);
    case 0x49 << 8 | PF2 << 1: /* TILEZERO */
        memset(&tiles[it->reg & 7], 0, sizeof *tiles);
        return has_shape(it->reg);
    case 0x4b << 8 | PF2 << 1 | true: /* TILELOADD */
    case 0x4b << 8 | P66 << 1 | true: /* TILELOADDT1 */
        return load(it->reg, it->address, it->stride);
    case 0x4b << 8 | PF3 << 1 | true: /* TILESTORED */
        return store(it->reg, it->address, it->stride);
    case 0x5c << 8 | PF3 << 1: /* TDPBF16PS */
        return multiply(it->reg, it->rm, it->second);
    default:
        return false;
    }
}

/* Goes on as long as one of the unit's follows another: a trap takes longer than what it is for. What is none of
   them traps again, and whoever was there before answers it. */
static void handle(int signal, siginfo_t *info, void *context) {
    (void)info;
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    greg_t start = registers[REG_RIP];
    Instruction found;
    while (decode(registers, &found) && carry_out(&found)) registers[REG_RIP] = (greg_t)found.next;
    if (registers[REG_RIP] == start) sigaction(signal, &before, NULL);
}

/* From here on the process has a matrix unit. */
int install(void) {
    struct sigaction ours = {.sa_sigaction = handle, .sa_flags = SA_SIGINFO | SA_NODEFER};
    return sigaction(SIGILL, &ours, &before);
}

/* It has none any more. */
int remove_again(void) { return sigaction(SIGILL, &before, NULL); }

/* How many products of tiles there were. */
uint64_t count_of_products(void) { return __atomic_load_n(&products, __ATOMIC_RELAXED); }
