/* The unit's instructions themselves, for the tests of what carries them out. */

#include <stdint.h>

typedef struct {
    uint8_t palette, start_line, reserved[14];
    uint16_t line_bytes[16];
    uint8_t lines[16];
} Shapes;

static Shapes shapes = {
    .palette = 1, .line_bytes = {64, 64, 64, 64, 64, 64, 64, 64}, .lines = {16, 16, 16, 16, 16, 16, 16, 16},
};

/* out += left @ right for tiles whose lines lie ``stride`` bytes apart: [rows, depth] pairs of bfloat16, [depth,
   columns] of them and [rows, columns] of float32. ``right_lines`` is ``depth`` where they fit. */
void add_product(float *out, const uint32_t *left, const uint32_t *right, int rows, int depth, int columns,
                 int right_lines, int stride) {
    Shapes fitting = shapes;
    fitting.lines[5] = fitting.lines[2] = (uint8_t)rows;
    fitting.lines[7] = (uint8_t)right_lines;
    fitting.line_bytes[2] = (uint16_t)(4 * depth);
    fitting.line_bytes[5] = fitting.line_bytes[7] = (uint16_t)(4 * columns);
    __asm__ volatile("ldtilecfg %[shapes]\n\t"
                     "tileloadd (%[out],%[stride]), %%tmm5\n\t"
                     "tileloaddt1 (%[left],%[stride]), %%tmm2\n\t"
                     "tileloadd (%[right],%[stride]), %%tmm7\n\t"
                     "tdpbf16ps %%tmm7, %%tmm2, %%tmm5\n\t"
                     "tilestored %%tmm5, (%[out],%[stride])\n\t"
                     "tilerelease"
                     :
                     : [shapes] "m"(fitting), [out] "r"(out), [left] "r"(left), [right] "r"(right),
                       [stride] "r"((int64_t)stride)
                     : "memory");
}

#define MOVE(FROM, REGISTER, AT, INDEX, STRIDE)                                                                  \
    do {                                                                                                         \
        __asm__ volatile("mov %[at], %%" REGISTER "\n\t"                                                         \
                         "mov %[by], %%" INDEX "\n\t"                                                            \
                         "tileloadd " FROM ", %%tmm3\n\t"                                                        \
                         "tilestored %%tmm3, (%[out],%[stride])"                                                 \
                         :                                                                                       \
                         : [at] "r"(AT), [by] "r"((int64_t)(STRIDE)), [out] "r"(out), [stride] "r"((int64_t)64)  \
                         : REGISTER, INDEX, "memory");                                                           \
        out += 1024;                                                                                             \
    } while (0)

/* Copies a whole tile by each kind of address there is; returns how many copies there are. */
int copy_by_each_address(uint8_t *out, const uint8_t *from) {
    const uint8_t *first = out;
    __asm__ volatile("ldtilecfg %[shapes]" : : [shapes] "m"(shapes)); /* as the program counter's neighbour */
    MOVE("(%%rax,%%rcx,1)", "rax", from, "rcx", 64);
    MOVE("(%%r13,%%r14,2)", "r13", from, "r14", 32);
    MOVE("-128(%%r12,%%r15,4)", "r12", from + 128, "r15", 16);
    MOVE("0x12340(%%r8,%%r12,8)", "r8", from - 0x12340, "r12", 8);
    MOVE("(%%rdx,%%r13,1)", "rdx", from + 960, "r13", -64); /* upside down */
    MOVE("(%%rdx)", "rdx", from, "rcx", 64);                 /* the first line, sixteen times */
    __asm__ volatile("tilezero %%tmm3\n\ttilestored %%tmm3, (%[out],%[stride])\n\ttilerelease"
                     :
                     : [out] "r"(out), [stride] "r"((int64_t)64)
                     : "memory");
    return (int)(out + 1024 - first) / 1024;
}

/* Writes down the shapes that are set, 64 bytes, and those after the registers were given back. */
void write_shapes(uint8_t *set, uint8_t *released) {
    __asm__ volatile("ldtilecfg %[shapes]\n\tsttilecfg (%[set])\n\ttilerelease\n\tsttilecfg (%[released])"
                     :
                     : [shapes] "m"(shapes), [set] "r"(set), [released] "r"(released)
                     : "memory");
}

/* What the unit refuses. */
void use_without_a_shape(void) { __asm__ volatile("tilerelease\n\ttilezero %tmm1"); }
