"""What networks compute in: the choice of `auto` on processors and GPUs that this machine need not have."""

import logging
import os
import platform
import subprocess
import sys

import pytest
import torch

from scansynth import precision
from scansynth.precision import WITHOUT_BFLOAT16, automatic, choose_precision, synthesis_precision

CPU, CUDA, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))
INTEL = platform.machine().lower() in ("x86_64", "amd64")


@pytest.fixture(autouse=True)
def asked_anew():
    """The answer is kept for a process; here the machine changes from test to test."""
    automatic.cache_clear()
    yield
    automatic.cache_clear()


@pytest.fixture
def processor(monkeypatch):
    """`processor(capability, bf16=…, amx=…, limit=…, factor=…)`: what PyTorch and the environment say of an x86-64
    processor, and how many times as long as in float32 a convolution takes there in bfloat16."""

    def be(capability, bf16=False, amx=False, limit=None, factor=0.5):
        monkeypatch.setattr(precision, "slowdown", lambda device: factor)
        monkeypatch.setattr("platform.machine", lambda: "x86_64")
        monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: capability)
        monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: bf16)
        monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: amx)
        monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
        if limit is not None:
            monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)

    return be


@pytest.mark.parametrize("capability", ["AVX2", "DEFAULT", "NO AVX"])
def test_a_processor_that_is_used_without_avx512_gets_float32_whatever_it_has(processor, capability):
    processor(capability, bf16=True, amx=True)
    choice = choose_precision("auto", CPU)
    assert choice.precision == "float32"
    assert f"used as {capability}" in choice.reason


def test_avx512_alone_is_not_enough(processor):
    processor("AVX512")
    choice = choose_precision("auto", CPU)
    assert choice.precision == "float32"
    assert str(choice) == "float32 (the processor has AVX-512, but no bfloat16 instructions)"


@pytest.mark.parametrize("has", ["bf16", "amx"])
def test_a_processor_with_bfloat16_instructions_gets_bfloat16(processor, has):
    processor("AVX512", **{has: True})
    choice = choose_precision("auto", CPU)
    assert choice.precision == "bfloat16"
    assert choice.reason.startswith("the processor has bfloat16 instructions, and a convolution is 2.0 times as fast")


@pytest.mark.parametrize("factor", [0.95, 1.4])
def test_instructions_that_are_no_faster_are_not_used(processor, factor):
    processor("AVX512", bf16=True, factor=factor)
    choice = choose_precision("auto", CPU)
    assert choice.precision == "float32"
    assert f"takes {factor:.1f} times as long as in float32 here, measured" in choice.reason
    assert synthesis_precision("bfloat16", CPU) == "float32"


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        *((limit, "float32") for limit in (*WITHOUT_BFLOAT16, "avx2")),
        *((limit, "bfloat16") for limit in ("ALL", "DEFAULT", "avx512_core_bf16", "AVX512_CORE_AMX", "AVX10_2_512")),
    ],
)
def test_what_onednn_may_not_use_does_not_count(processor, limit, expected):
    processor("AVX512", bf16=True, amx=True, limit=limit)
    choice = choose_precision("auto", CPU)
    assert choice.precision == expected
    assert (f"ONEDNN_MAX_CPU_ISA={limit.upper()}" in choice.reason) == (expected == "float32")


@pytest.mark.parametrize(("native", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_an_arm_processor_is_asked_by_its_library(monkeypatch, native, expected):
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: native)
    monkeypatch.setattr(precision, "slowdown", lambda device: 0.5)
    choice = choose_precision("auto", CPU)
    assert choice.precision == expected
    assert "bfloat16 instructions" in choice.reason


@pytest.mark.parametrize(("native", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_a_gpu_gets_bfloat16_where_it_does_not_emulate_it(monkeypatch, native, expected):
    def supported(including_emulation=True):
        return native or including_emulation

    monkeypatch.setattr("torch.cuda.is_bf16_supported", supported)
    choice = choose_precision("auto", CUDA)
    assert choice.precision == expected
    assert ("emulates" in choice.reason) == (not native)


@pytest.mark.parametrize(("factor", "expected"), [(0.5, "bfloat16"), (0.95, "float32"), (3.0, "float32")])
def test_another_device_is_measured_and_bfloat16_must_be_worth_it(monkeypatch, factor, expected):
    monkeypatch.setattr(precision, "slowdown", lambda device: factor)
    choice = choose_precision("auto", MPS)
    assert choice.precision == expected
    assert "measured" in choice.reason


def test_an_explicit_bfloat16_without_hardware_warns_with_the_measured_factor(processor, monkeypatch, caplog):
    measured, measure = [], precision.slowdown
    processor("AVX2")
    monkeypatch.setattr(precision, "slowdown", lambda device: measured.append(measure(device)) or measured[-1])
    with caplog.at_level(logging.WARNING, "scansynth"):
        choice = choose_precision("bfloat16", CPU)
    assert (choice.precision, choice.reason) == ("bfloat16", "as the settings say")
    (factor,) = measured
    assert factor > 0
    (record,) = caplog.records
    assert f"takes {factor:.1f} times as long as in float32" in record.getMessage()
    assert "used as AVX2" in record.getMessage()
    assert "auto or float32" in record.getMessage()


def test_what_is_asked_for_and_there_is_taken_without_a_word(processor, caplog):
    processor("AVX512", bf16=True)
    assert choose_precision("bfloat16", CPU).precision == "bfloat16"
    assert choose_precision("float32", CPU).precision == "float32"
    assert not caplog.records


@pytest.mark.parametrize(
    ("trained", "capability", "expected"),
    [("float32", "AVX512", "float32"), ("bfloat16", "AVX512", "bfloat16"), ("bfloat16", "AVX2", "float32"),
     ("auto", "AVX512", "bfloat16"), ("auto", "AVX2", "float32")],
)  # fmt: skip
def test_synthesis_is_never_coarser_than_training(processor, trained, capability, expected):
    processor(capability, bf16=True)
    assert synthesis_precision(trained, CPU) == expected


@pytest.mark.processor
def test_this_machine_has_an_answer_and_a_factor():
    assert choose_precision("auto", CPU).precision in ("float32", "bfloat16")
    assert 0 < precision.slowdown(CPU) < 1e5
    threads = torch.get_num_threads()
    with torch.inference_mode():
        assert 0 < precision.slowdown(CPU) < 1e5
    assert torch.get_num_threads() == threads


@pytest.mark.skipif(not INTEL, reason="ATEN_CPU_CAPABILITY=avx2 is a word for x86-64")
def test_a_process_that_may_use_avx2_only_takes_float32_and_says_why():
    program = (
        "import torch; from scansynth.precision import choose_precision;"
        "print(choose_precision('auto', torch.device('cpu')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "ATEN_CPU_CAPABILITY": "avx2"}, capture_output=True,
        text=True, timeout=120, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "float32 (the processor is used as AVX2, without bfloat16 instructions)"
