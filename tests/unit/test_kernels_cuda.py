"""The Triton kernels against dense autograd in float64.

They run on a CUDA device where there is one, and always in a second process in which Triton interprets them on the CPU:
Triton reads TRITON_INTERPRET when it is imported, and SAELens has imported it before any test of this process runs.
That proves the arithmetic; that they compile for a GPU is a test of its own and needs none. Speed is not tested here.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"
HERE = INTERPRETING or torch.cuda.is_available()
DEVICE = "cpu" if INTERPRETING else "cuda"

triton = pytest.importorskip("triton", reason="Triton is not installed: it comes with torch's CUDA builds on Linux")

from sae_lens_med.errors import ConfigError  # noqa: E402
from sae_lens_med.saes.kernels import cuda as kernels_cuda  # noqa: E402
from sae_lens_med.saes.kernels.active import ActiveSet  # noqa: E402

if INTERPRETING:
    import triton.language as tl
    from triton.runtime import interpreter

    # Whenever one kernel function calls another, the interpreter patches the language again, on top of its own patches:
    # minutes instead of seconds. Patched once, here for the functions that live in Triton itself, it stays patched.
    interpreter._patch_lang(tl.sum.fn)
    interpreter.InterpretedFunction.__call__ = lambda self, *args, **kwargs: self.rewrite()(*args, **kwargs)


@dataclass(frozen=True)
class Case:
    x: torch.Tensor
    M: torch.Tensor
    b: torch.Tensor
    inv_norm: torch.Tensor
    g: torch.Tensor
    g_dense: torch.Tensor
    """dL/dc through other paths than x̂, at every position."""


def make(
    n_rows: int = 9, d_in: int = 29, d_sae: int = 43, density: float = 0.1, seed: int = 0, scale: float = 1.0
) -> Case:
    """A batch whose share of active entries is `density`."""
    made = torch.Generator().manual_seed(seed)
    E = torch.randn(d_sae, d_in, generator=made) * (0.5 + torch.rand(d_sae, 1, generator=made))
    inv_norm = 1 / E.norm(dim=1)
    M = E * inv_norm[:, None]
    x = torch.randn(n_rows, d_in, generator=made) * scale
    pre = (x @ M.T).flatten().sort().values
    quantile = torch.cat([pre[:1] - 1, pre, pre[-1:] + 1])[round((1 - density) * (len(pre) + 1))]
    b = torch.full((d_sae,), -float(quantile)) + 1e-4 * scale * torch.randn(d_sae, generator=made)
    g = torch.randn(n_rows, d_in, generator=made)
    g_dense = torch.randn(n_rows, d_sae, generator=made)
    return Case(*(t.to(DEVICE) for t in (x, M, b, inv_norm, g, g_dense)))


def dense(acts: ActiveSet, values: torch.Tensor, d_sae: int) -> torch.Tensor:
    out = torch.zeros(len(acts.crow) - 1, d_sae, dtype=values.dtype)
    for row, (start, end) in enumerate(zip(acts.crow.tolist(), acts.crow.tolist()[1:], strict=False)):
        columns = acts.col[start:end].tolist()
        assert columns == sorted(set(columns)), "columns must ascend"
        out[row, columns] = values[start:end].cpu()
    assert acts.crow[0] == 0 and acts.crow[-1] == len(acts.col) == len(values)
    return out


def close(got: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    assert got.dtype == torch.float32 and got.shape == expected.shape
    assert (got.cpu().double() - expected.cpu()).norm() <= tolerance * expected.norm()
    assert (got.cpu().double() - expected.cpu()).abs().max() <= tolerance * (expected.abs().max() + 1e-30)


def check(case: Case, *, bf16_filter: bool = False) -> ActiveSet:
    """Values, reconstruction and gradients are those of dense autograd in float64 through E's norm."""
    E, b, x = ((t.double().requires_grad_()) for t in (case.M / case.inv_norm[:, None], case.b, case.x))
    c = torch.relu(x @ (E / E.norm(dim=1, keepdim=True)).T + b)
    x_hat = c @ (E / E.norm(dim=1, keepdim=True))
    ((x_hat * case.g).sum() + (c * case.g_dense).sum()).backward()

    acts, got = kernels_cuda.forward(case.x, case.M, case.b, bf16_filter=bf16_filter)
    got_dense = dense(acts, acts.values, len(case.M))
    assert torch.equal(got_dense > 0, (c > 0).cpu()) and (acts.values > 0).all()
    close(got_dense, c.detach())
    close(got, x_hat.detach())
    rows = torch.arange(len(case.x), device=DEVICE).repeat_interleave(acts.crow.diff())
    g_values = case.g_dense[rows, acts.col]
    arguments = (acts, case.g, g_values, case.x, case.M, case.inv_norm)
    dE, db, dx = kernels_cuda.backward(*arguments, needs_x=True)
    for mine, theirs in ((dE, E), (db, b), (dx, x)):
        assert mine is not None and theirs.grad is not None
        close(mine, theirs.grad)
    assert kernels_cuda.backward(*arguments, needs_x=False)[2] is None
    return acts


class TestKernels:
    __test__ = HERE

    @pytest.fixture(params=[False, True], ids=["float32", "bf16-filter"])
    def bf16_filter(self, request: pytest.FixtureRequest) -> Iterator[bool]:
        yield request.param

    @pytest.mark.parametrize("density", [0.0, 0.04, 0.1, 1.0])
    def test_values_and_gradients_at_every_density(self, density: float, bf16_filter: bool) -> None:
        case = make(n_rows=6, d_sae=17, density=density)
        acts = check(case, bf16_filter=bf16_filter)
        assert abs(len(acts.col) - density * 6 * 17) < 1.5

    @pytest.mark.parametrize(
        ("n_rows", "d_in", "d_sae"),
        [(37, 53, 131), (1, 1, 1), (3, 1100, 70), (2, 16, 140 if INTERPRETING else 1100), (8, 64, 128)],
        ids=str,
    )
    def test_sizes_around_the_blocks(
        self, n_rows: int, d_in: int, d_sae: int, bf16_filter: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if INTERPRETING:  # a thousand features would take as long as all else here
            monkeypatch.setattr(kernels_cuda, "ENCODE_COLUMNS", 64)
        check(make(n_rows, d_in, d_sae, density=0.01 if d_sae > 1 else 1.0), bf16_filter=bf16_filter)

    def test_empty_rows_and_columns(self, bf16_filter: bool) -> None:
        case = make(density=0.2)
        case.b[::3] = -100.0
        case.x[[0, 5, 8]] = 0.0
        case.b.clamp_(max=-0.1)
        acts = check(case, bf16_filter=bf16_filter)
        assert (acts.crow.diff() == 0).sum() >= 3 and not (acts.col % 3 == 0).any()
        g_values = torch.ones_like(acts.values)
        dE, db, _ = kernels_cuda.backward(acts, case.g, g_values, case.x, case.M, case.inv_norm, needs_x=False)
        assert not dE[::3].any() and not db[::3].any()

    @pytest.mark.parametrize("n_rows", [0, 2])
    def test_nothing_active_and_no_rows(self, n_rows: int, bf16_filter: bool) -> None:
        case = make()
        acts, x_hat = kernels_cuda.forward(case.x[:n_rows], case.M, case.b - 1e3, bf16_filter=bf16_filter)
        assert acts.crow.tolist() == [0] * (n_rows + 1) and acts.col.dtype == acts.crow.dtype == torch.int64
        assert x_hat.shape == (n_rows, 29) and not x_hat.any()
        arguments = (acts, case.g[:n_rows], acts.values, case.x[:n_rows], case.M, case.inv_norm)
        dE, db, dx = kernels_cuda.backward(*arguments, needs_x=True)
        assert dx is not None and dx.shape == (n_rows, 29)
        assert not dE.any() and not db.any() and not dx.any()

    def test_input_that_is_not_contiguous(self, bf16_filter: bool) -> None:
        case = make()
        wide = {name: torch.randn(*getattr(case, name).T.shape, 2, device=DEVICE) for name in ("x", "M", "g")}
        strided = {}
        for name, room in wide.items():
            room[..., 1] = getattr(case, name).T
            strided[name] = room[..., 1].T
            assert not strided[name].is_contiguous()
        halves = torch.stack([case.b, case.inv_norm], 1)
        strided |= {"b": halves[:, 0], "inv_norm": halves[:, 1], "g_dense": case.g_dense.T.contiguous().T}
        check(Case(**strided), bf16_filter=bf16_filter)

    def test_slices_of_rows_join(self, bf16_filter: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        case = make()
        whole = check(case, bf16_filter=bf16_filter)
        monkeypatch.setattr(kernels_cuda, "BUFFER_BYTES", 4 * 43 * 4)
        sliced = check(case, bf16_filter=bf16_filter)
        assert torch.equal(whole.crow, sliced.crow) and torch.equal(whole.col, sliced.col)

    @pytest.mark.parametrize("density", [0.1, 0.6])
    def test_long_columns_are_summed_in_segments(self, density: float, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(kernels_cuda, "MIN_SEGMENT", 4)
        case = make(d_sae=17, density=density)
        case.b[::2] += 1.0  # columns of all lengths
        check(case)

    def test_segments_grow_where_partial_sums_would_take_too_much(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(kernels_cuda, "MIN_SEGMENT", 1)
        monkeypatch.setattr(kernels_cuda, "BUFFER_BYTES", 4 * 29 * 40)
        check(make(density=0.5))

    def test_the_same_input_gives_the_same_bits(self, bf16_filter: bool) -> None:
        case = make(d_sae=17, density=0.3)
        runs = []
        for _ in range(2):
            acts, x_hat = kernels_cuda.forward(case.x, case.M, case.b, bf16_filter=bf16_filter)
            arguments = (acts, case.g, torch.ones_like(acts.values), case.x, case.M, case.inv_norm)
            runs.append([acts.crow, acts.col, acts.values, x_hat, *kernels_cuda.backward(*arguments, needs_x=True)])
        for first, second in zip(*runs, strict=True):
            assert first is not None and torch.equal(first, second)

    @pytest.mark.parametrize("scale", [1e-25, 1e-6, 1.0, 1e4, 1e25])
    def test_the_filter_finds_the_same_set_at_every_scale(self, scale: float) -> None:
        # 1e±25: squares leave float32's range
        case = make(scale=scale)
        exact, _ = kernels_cuda.forward(case.x, case.M, case.b, bf16_filter=False)
        filtered, _ = kernels_cuda.forward(case.x, case.M, case.b, bf16_filter=True)
        assert len(exact.col) > 30
        assert torch.equal(exact.crow, filtered.crow) and torch.equal(exact.col, filtered.col)
        close(filtered.values, exact.values.double(), 1e-6)

    @pytest.mark.parametrize("side", [-1, 1])
    def test_the_filter_decides_near_the_threshold_as_float32_does(
        self, side: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Biases that put one row of every feature 1e-4 of the norms above or below 0: far within bf16's error, where
        the bf16 product alone has the sign wrong for many, and far beyond float32's."""
        monkeypatch.setattr(kernels_cuda, "BUFFER_BYTES", 4 * 67 * 5)  # each slice of rows has margins of its own
        case = make(n_rows=13, d_in=60, d_sae=67)
        case.x[::8] *= 1000.0  # rows of very different norm in one batch
        columns = torch.arange(67, device=DEVICE)
        rows = columns % 13
        pre = (case.x.double() @ case.M.double().T)[rows, columns]
        case.b.copy_((-pre + side * 1e-4 * case.x.norm(dim=1)[rows]).float())
        low = case.x.bfloat16().float() @ case.M.bfloat16().float().T + case.b
        wrong = (low[rows, columns] > 0) != (side > 0)
        assert wrong.sum() > 15
        acts, _ = kernels_cuda.forward(case.x, case.M, case.b, bf16_filter=True)
        c = torch.relu(case.x.double() @ case.M.double().T + case.b)
        assert torch.equal(dense(acts, acts.values, 67) > 0, (c > 0).cpu())
        active = dense(acts, acts.values, 67)[rows.cpu(), columns.cpu()] > 0
        assert active.all() if side > 0 else not active.any()

    def test_the_margin_holds_where_every_rounding_points_the_same_way(self) -> None:
        """Entries just under the middle of two bf16 values, all rounded down, along a parallel feature: the bound is
        nearly reached, so that a margin of half of it would lose the entry."""
        d_in, almost_half_up = 64, 1.0 + 2.0**-8 - 2.0**-20
        case = make(n_rows=1, d_in=d_in, d_sae=1)
        case.x.fill_(almost_half_up)
        case.M.fill_(almost_half_up / 8)
        exact = float((case.x.double() @ case.M.double().T).item())
        low = float((case.x.bfloat16().double() @ case.M.bfloat16().double().T).item())
        lost = exact - low
        assert lost > 0.9 * 2 * 2.0**-8 * low
        case.b.fill_(-exact + lost / 100)
        acts, _ = kernels_cuda.forward(case.x, case.M, case.b, bf16_filter=True)
        assert acts.col.tolist() == [0]
        assert float(acts.values) == pytest.approx(lost / 100, rel=1e-2)

    def test_the_filter_measures_the_rounding(self) -> None:
        case = make(d_in=60)
        case.x[3] = 0.0
        case.x[5] = case.x[5].bfloat16().float()
        rounded, norm, error = kernels_cuda._round_rows(case.x)
        assert torch.allclose(rounded.float(), case.x, rtol=2.0**-7)
        both = torch.stack([case.x.norm(dim=1), rounded.float().norm(dim=1)])
        assert torch.allclose(norm, both.amax(0), rtol=1e-5)
        assert torch.allclose(error, (case.x - rounded.float()).norm(dim=1), rtol=1e-5)
        assert norm[3] == error[3] == error[5] == 0

    def test_what_the_filter_lets_through_is_little(self) -> None:
        case = make(n_rows=12, d_in=128, d_sae=128, density=0.04)
        crow, col = kernels_cuda._encode_bf16(case.x, case.M, case.b)
        acts, _ = kernels_cuda.forward(case.x, case.M, case.b, bf16_filter=True)
        assert len(acts.col) < len(col) < 1.5 * len(acts.col)
        assert crow[-1] == len(col)

    def test_nan_reaches_the_reconstruction(self, bf16_filter: bool) -> None:
        case = make()
        case.x[2, 7] = torch.nan
        acts, x_hat = kernels_cuda.forward(case.x, case.M, case.b, bf16_filter=bf16_filter)
        assert x_hat.isnan().any(dim=1).nonzero().flatten().tolist() == [2]
        assert acts.values[acts.crow[2] : acts.crow[3]].isnan().all()

    def test_an_autocast_region_changes_nothing(self, bf16_filter: bool) -> None:
        case = make()
        outside, x_hat = kernels_cuda.forward(case.x, case.M, case.b, bf16_filter=bf16_filter)
        with torch.autocast(DEVICE, torch.bfloat16):
            inside, x_hat_inside = kernels_cuda.forward(case.x, case.M, case.b, bf16_filter=bf16_filter)
        assert torch.equal(outside.values, inside.values) and torch.equal(x_hat, x_hat_inside)

    def test_what_does_not_fit_is_refused(self) -> None:
        case = make()
        with pytest.raises(ConfigError, match=r"take float32, but M is torch.float64\."):
            kernels_cuda.forward(case.x, case.M.double(), case.b, bf16_filter=False)
        with pytest.raises(ConfigError, match=r"got \(9, 29\) and \(43, 28\)"):
            kernels_cuda.forward(case.x, case.M[:, 1:], case.b, bf16_filter=False)
        with pytest.raises(ConfigError, match=r"b must be \[43\], one number per feature, got \(42,\)"):
            kernels_cuda.forward(case.x, case.M, case.b[1:], bf16_filter=False)
        acts, _ = kernels_cuda.forward(case.x, case.M, case.b, bf16_filter=False)
        with pytest.raises(ConfigError, match="gradients do not fit"):
            kernels_cuda.backward(acts, case.g[1:], acts.values, case.x, case.M, case.inv_norm, needs_x=False)


class TestWithoutADevice:
    __test__ = not INTERPRETING

    def test_the_kernels_under_tritons_interpreter(self) -> None:
        command = [sys.executable, "-m", "pytest", "-q", "-x", "--noconftest", "-p", "no:cacheprovider", __file__]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "TRITON_INTERPRET": "1"},
        )
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        assert "passed" in done.stdout and "skipped" not in done.stdout

    @pytest.mark.parametrize("capability", [80, 90])
    @pytest.mark.parametrize("d_in", [640, 4096])
    def test_every_kernel_compiles_for_a_gpu(self, capability: int, d_in: int) -> None:
        """Triton carries NVIDIA's assembler, so this needs no GPU and no CUDA toolkit."""
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource, compile

        block = triton.next_power_of_2(d_in)
        filtering = {"FILTER": True, "BLOCK": kernels_cuda.ENCODE_COLUMNS}
        summing = {"ENTRIES": kernels_cuda._ENTRIES, "BLOCK": block}
        integers = {"crow", "col", "ends", "row", "order", "start", "slot_feature", "slot_end"}
        types = dict.fromkeys(integers, "*i64") | dict.fromkeys(("d_in", "d_sae", "blocks", "segment"), "i32")
        types |= {"counts": "*i32", "rounded": "*bf16", "floor": "fp32"}
        for kernel, constants, warps in (
            (kernels_cuda._count_active, filtering, 4),
            (kernels_cuda._count_active, filtering | {"FILTER": False}, 4),
            (kernels_cuda._write_active, filtering, 4),
            (kernels_cuda._write_active, filtering | {"FILTER": False}, 4),
            (kernels_cuda._round_row, {"BLOCK": block}, kernels_cuda._warps(block)),
            (kernels_cuda._dot_at, {"GROUP": kernels_cuda._DOT_GROUP, "BLOCK": 1024}, 4),
            (kernels_cuda._decode_row, {"GROUP": kernels_cuda._DECODE_GROUP, "BLOCK": 1024}, 4),
            (kernels_cuda._sum_segment, summing, kernels_cuda._warps(block)),
            (kernels_cuda._sum_feature, summing, kernels_cuda._warps(block)),
        ):
            names = kernel.arg_names
            signature = {name: "constexpr" if name in constants else types.get(name, "*fp32") for name in names}
            aligned = {
                (at,): [["tt.divisibility", 16]] for at, name in enumerate(names) if signature[name].startswith("*")
            }
            source = ASTSource(kernel, signature, constexprs=constants, attrs=aligned)
            compiled = compile(
                source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps, "enable_fp_fusion": True}
            )
            assert len(compiled.asm["cubin"]) > 1000
            assert "atom." not in compiled.asm["ptx"] and "red.global" not in compiled.asm["ptx"]
