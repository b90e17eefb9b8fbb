"""The kernel that adds two vectors, as PTX: the driver translates it for the GPU it finds, so no toolkit is needed.

sm_50 is the oldest architecture that PTX ISA 6.0 and today's drivers both take; PTX for an older architecture runs on
every newer one (PTX ISA, section "PTX Module Directives: .target"). Registers are 64 bits wide where addresses are.
"""

from __future__ import annotations

ENTRY = "nodeagent_vector_add"
BLOCK = 256  # threads

# sum[i] = one[i] + other[i] for every i below count; threads beyond it do nothing.
PTX = f"""\
.version 6.0
.target sm_50
.address_size 64

.visible .entry {ENTRY}(
    .param .u64 one,
    .param .u64 other,
    .param .u64 sum,
    .param .u32 count
)
{{
    .reg .pred %beyond;
    .reg .f32 %f<4>;
    .reg .b32 %r<6>;
    .reg .b64 %d<8>;

    ld.param.u64 %d1, [one];
    ld.param.u64 %d2, [other];
    ld.param.u64 %d3, [sum];
    ld.param.u32 %r1, [count];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.u32 %r5, %r2, %r3, %r4;
    setp.ge.u32 %beyond, %r5, %r1;
    @%beyond bra done;
    cvta.to.global.u64 %d1, %d1;
    cvta.to.global.u64 %d2, %d2;
    cvta.to.global.u64 %d3, %d3;
    mul.wide.u32 %d4, %r5, 4;
    add.u64 %d5, %d1, %d4;
    add.u64 %d6, %d2, %d4;
    add.u64 %d7, %d3, %d4;
    ld.global.f32 %f1, [%d5];
    ld.global.f32 %f2, [%d6];
    add.f32 %f3, %f1, %f2;
    st.global.f32 [%d7], %f3;
done:
    ret;
}}
"""
