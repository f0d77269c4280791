"""Memory spaces, arguments and traffic."""

import numpy as np
import pytest

from ptx.faults import LaunchError, OutOfBoundsError
from ptx.handwritten import HEADER, module, run
from ptx.launch import find_kernel, launch
from ptx.memory import GlobalMemory

LANES = np.arange(32, dtype=np.uint32)


def test_generic_addresses_reach_every_space():
    body = """
    mov.u64 %d1, area;
    cvta.shared.u64 %d2, %d1;
    mad.wide.u32 %d2, %r30, 4, %d2;
    mov.u64 %d3, own;
    cvta.local.u64 %d4, %d3;
    st.u32 [%d2], %r30;
    st.u32 [%d4], 1000;
    setp.lt.u32 %p1, %r30, 10;
    selp.b64 %d5, %d2, %d4, %p1;
    ld.u32 %r0, [%d5];
    cvta.to.shared.u64 %d6, %d2;
    ld.shared.u32 %r1, [%d6];
    add.u32 %r0, %r0, %r1;
    cvta.global.u64 %d7, %d16;
    mad.wide.u32 %d0, %r31, 4, %d7;
    st.u32 [%d0], %r0;"""
    out = np.zeros(32, np.uint32)
    variables = ".shared .align 4 .b8 area[128];\n.local .align 4 .b8 own[4];\n"
    run(body, [out], variables=variables)
    assert (out == np.where(LANES < 10, 2 * LANES, LANES + 1000)).all()


def test_constants_and_dynamic_shared_memory():
    variables = ".const .align 4 .b8 table[8] = {1, 0, 0, 0, 0xff, 255, 255, 255};\n"
    variables += ".extern .shared .align 16 .b8 dynamic[];\n"
    body = """
    and.b32 %r1, %r30, 1;
    mov.u64 %d1, table;
    mad.wide.u32 %d1, %r1, 4, %d1;
    ld.const.s32 %d2, [%d1];
    shl.b32 %r2, %r30, 3;
    mov.u32 %r3, dynamic;
    add.u32 %r2, %r2, %r3;
    st.shared.u64 [%r2], %d2;
    ld.shared.v2.u32 {%r4, %r0}, [%r2];"""
    body += "\nmad.wide.u32 %d0, %r31, 4, %d16;\nst.global.b32 [%d0], %r0;"
    out = np.zeros(32, np.uint32)
    run(body, [out], variables=variables, shared_bytes=256)
    assert (out == np.where(LANES % 2, 0xFFFFFFFF, 0)).all()


def test_every_width_of_load_and_store_keeps_its_bytes():
    generator = np.random.default_rng(9)
    source = generator.integers(0, 256, 32 * 32).astype(np.uint8)
    target = np.zeros_like(source)
    registers = {1: "%h", 2: "%h", 4: "%r", 8: "%d"}
    for size in (1, 2, 4, 8):
        for count in (1, 2, 4):
            names = [f"{registers[size]}{i + 1}" for i in range(count)]
            vector = f".v{count}" if count > 1 else ""
            operand = f"{{{', '.join(names)}}}" if count > 1 else names[0]
            body = f"""
    mad.wide.u32 %d8, %r31, {size * count}, %d16;
    mad.wide.u32 %d9, %r31, {size * count}, %d17;
    ld.global.nc.L1::no_allocate{vector}.b{8 * size} {operand}, [%d8];
    st.global.cs{vector}.b{8 * size} [%d9], {operand};"""
            target[:] = 0
            report = run(body, [source, target])
            used = 32 * size * count
            assert (target[:used] == source[:used]).all()
            assert (target[used:] == 0).all()
            assert report.loaded_bytes == report.stored_bytes == used


def test_narrow_loads_are_extended():
    source = np.array([0x80, 0x7F], np.uint8)
    out = np.zeros(2, np.int32)
    body = """
    ld.global.s8 %r0, [%d16];
    ld.global.u8 %r1, [%d16];
    st.global.v2.u32 [%d17], {%r0, %r1};"""
    run(body, [source, out], block=1)
    assert out.tolist() == [-128, 128]


@pytest.mark.parametrize(("stride", "sectors"), [(4, 4), (8, 8), (32, 32), (128, 32), (0, 1)])
def test_sectors_are_counted_a_warp(stride, sectors):
    body = f"mad.wide.u32 %d0, %r31, {stride}, %d16;\nld.global.u32 %r0, [%d0];"
    report = run(body, [np.zeros(64 * 32 * 4, np.uint8)], block=64)
    traffic = report.of("load", 4)
    assert (traffic.requests, traffic.sectors, traffic.ideal_sectors) == (2, sectors * 2, 8)
    assert traffic.num_bytes == 256
    assert traffic.excess_sectors == max(0, sectors - 4) * 2


def test_a_broadcast_does_not_hide_another_warps_scatter():
    body = """
    shr.u32 %r1, %r30, 5;
    mul.lo.u32 %r2, %r1, %r30;
    mad.wide.u32 %d0, %r2, 32, %d16;
    ld.global.u32 %r0, [%d0];"""
    traffic = run(body, [np.zeros(64 * 32, np.uint8)], block=64).of("load", 4)
    assert (traffic.sectors, traffic.ideal_sectors, traffic.excess_sectors) == (33, 8, 28)


def test_memory_that_was_given_back_is_out_of_bounds():
    memory = GlobalMemory()
    data = np.zeros(8, np.uint32)
    address = memory.add(data)
    launch(module("ld.global.u32 %r0, [%d16];"), 1, 1, [address], memory=memory)
    memory.remove(address)
    with pytest.raises(OutOfBoundsError):
        launch(module("ld.global.u32 %r0, [%d16];"), 1, 1, [address], memory=memory)
    with pytest.raises(LaunchError):
        memory.remove(address)


def test_blocks_far_apart_are_reached_with_64_bit_offsets():
    memory = GlobalMemory()
    near, far = np.full(1, 7, np.uint32), np.zeros(1, np.uint32)
    base = memory.add(near, address=1 << 45)
    memory.add(far, address=(1 << 45) + (5 << 33))
    body = """
    ld.global.u32 %r0, [%d16];
    mov.u64 %d1, 5;
    shl.b64 %d1, %d1, 33;
    add.u64 %d0, %d16, %d1;
    st.global.u32 [%d0], %r0;"""
    launch(module(body), 1, 1, [base], memory=memory)
    assert far[0] == 7


def test_arrays_and_scalars_are_passed_as_numba_passes_them():
    parameters = ".param .u64 m, .param .u64 p, .param .u64 n, .param .u64 i, .param .u64 a,"
    parameters += ".param .u64 s0, .param .u64 s1, .param .u64 t0, .param .u64 t1,"
    parameters += ".param .u32 small, .param .f32 scale, .param .align 8 .b8 pair[16]"
    ptx = f"""{HEADER}.visible .entry kernel({parameters})
{{
    .reg .b64 %d<12>; .reg .b32 %r<3>;
    ld.param.u64 %d1, [a];
    ld.param.u64 %d2, [n]; ld.param.u64 %d3, [i]; ld.param.u64 %d4, [s0]; ld.param.u64 %d5, [s1];
    ld.param.u64 %d6, [t0]; ld.param.u64 %d7, [t1];
    ld.param.s32 %d8, [small]; ld.param.b32 %r1, [scale]; ld.param.v2.u64 {{%d9, %d10}}, [pair];
    st.global.v2.u64 [%d1], {{%d2, %d3}};
    st.global.v4.u64 [%d1+32], {{%d4, %d5, %d6, %d7}};
    st.global.u64 [%d1+64], %d8;
    st.global.u32 [%d1+72], %r1;
    st.global.u64 [%d1+80], %d10;
    ret;
}}"""
    array = np.zeros((3, 4), np.int64)
    launch(ptx, 1, 1, [array, -5, np.float32(1.5), bytes(8) + (77).to_bytes(8, "little")])
    flat = array.ravel()
    assert flat[[0, 1, 4, 5, 6, 7, 8, 10]].tolist() == [12, 8, 3, 4, 32, 8, -5, 77]
    assert flat.view(np.float32)[18] == 1.5


def test_arguments_must_fit_the_parameters():
    ptx = module("", 2)
    with pytest.raises(LaunchError, match="2 parameters, the arguments make 1"):
        launch(ptx, 1, 1, [0])
    with pytest.raises(LaunchError, match="fit"):
        launch(ptx, 1, 1, [1 << 64, 0])
    with pytest.raises(LaunchError, match="named"):
        find_kernel(ptx, "other")


def test_buffers_do_not_overlap_and_parts_of_one_share_its_addresses():
    memory = GlobalMemory()
    data = np.zeros((4, 8), np.uint16)
    start = memory.add(data)
    assert start % 256 == 0
    assert memory.add(data[2]) == start + 32
    assert memory.add(data[:, ::-1]) == start + 14
    assert memory.add(data.view(np.uint64)) == start
    with pytest.raises(LaunchError, match="overlap"):
        memory.add(np.zeros(4), address=start + 32)
    assert abs(memory.add(np.zeros(4)) - start) > 1 << 32
