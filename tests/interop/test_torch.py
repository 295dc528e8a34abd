"""PyTorch: modules, state dicts of more than a GRU, files and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import gru_jax
from experiments.interop.models import Model
from gru_jax.interop import torch as interop
from gru_jax.interop.files import FileError
from tests.assert_trees import assert_equal

STACK = Model(layers=2, directions=2)


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="torch is not installed")


def arrays(model: Model = STACK, **options) -> dict[str, np.ndarray]:
    return interop.dump(model.init(0), tensors=False, **options)


@pytest.mark.parametrize("model", [Model(), STACK], ids=["cell", "stack"])
@pytest.mark.parametrize("prefix", ["", "encoder.gru."])
def test_a_safetensors_file_of_arrays_needs_no_torch(model, prefix, tmp_path):
    path = tmp_path / "gru.safetensors"
    safetensors.numpy.save_file(arrays(model, prefix=prefix), path)
    assert_equal(interop.load(path, prefix=prefix), model.init(0))
    assert_equal(interop.load(str(path), prefix=prefix), model.init(0))


def test_one_layer_in_one_direction_is_no_stack():
    params = Model().init(0)
    one = gru_jax.Stack(((params,),))
    assert list(arrays(Model())) == list(interop.dump(one, tensors=False))
    assert_equal(interop.load(interop.dump(one, tensors=False)), params)


def test_the_two_biases_are_summed_but_for_the_new_gate():
    state_dict = arrays(Model(hidden=1, input=1), cell=True)
    state_dict |= {"bias_ih": np.float32([1, 2, 3]), "bias_hh": np.float32([10, 20, 30])}
    params = interop.load(state_dict)
    np.testing.assert_array_equal(params.b, [11, 22, 3])
    np.testing.assert_array_equal(params.b_hn, [30])


def test_low_precision_is_kept(tmp_path):
    for dtype in ("bfloat16", "float16"):
        params = jax.tree.map(lambda leaf, to=dtype: leaf.astype(to), STACK.init(0))
        path = tmp_path / f"{dtype}.safetensors"
        safetensors.numpy.save_file(interop.dump(params, tensors=False), path)
        assert_equal(interop.load(path), params)


def test_the_order_of_bytes_does_not_matter():
    state_dict = {name: array.astype(">f4") for name, array in arrays().items()}
    assert_equal(interop.load(state_dict), STACK.init(0))


def test_low_precision_goes_through_torch(torch):
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), Model().init(0))
    assert_equal(interop.load(interop.dump(params)), params)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "bidirectional"])
def test_a_module_is_its_state_dict(torch, layers, bidirectional, tmp_path):
    module = torch.nn.GRU(3, 4, layers, bidirectional=bidirectional)
    params = interop.load(module)
    assert_equal(interop.load(module.state_dict()), params)
    torch.save(module.state_dict(), tmp_path / "gru.pt")
    assert_equal(interop.load(tmp_path / "gru.pt"), params)
    module.load_state_dict(interop.dump(params), strict=True)


def test_a_gru_within_a_module(torch, tmp_path):
    class Encoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = torch.nn.BatchNorm1d(3)
            self.gru = torch.nn.GRU(3, 4)

    module = Encoder()
    torch.save(module.state_dict(), tmp_path / "encoder.pth")
    params = interop.load(module.gru)
    assert_equal(interop.load(module, prefix="gru."), params)
    assert_equal(interop.load(tmp_path / "encoder.pth", prefix="gru."), params)
    with pytest.raises(FileError, match=r"encoder\.pth: no weights of a GRU.*prefix='gru\.'"):
        interop.load(tmp_path / "encoder.pth")


def test_other_modules_are_rejected(torch):
    for module in (torch.nn.LSTM(3, 4), torch.nn.RNN(3, 4), torch.nn.Linear(3, 4)):
        with pytest.raises(TypeError, match=type(module).__name__):
            interop.load(module)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"weight_hr_l0": np.zeros((2, 5), "f")}, "weight_hr_l0.*proj_size"),
        ({"extra": np.zeros(3, "f")}, "unknown weights of the GRU: extra"),
        ({"bias_hh_l1": None}, "bias_hh_l1 is missing"),
        ({"weight_hh_l1_reverse": None}, "weight_hh_l1_reverse is missing"),
        ({"weight_ih_l0": None}, "no weights of a GRU"),
        ({"weight_hh_l0": np.zeros((20, 5), "f")}, r"\(20, 5\), expected \(15, 5\).*LSTM"),
        ({"weight_ih_l1": np.zeros((15, 4), "f")}, "layer 1 reads"),
        ({"bias_ih_l0": np.zeros(14, "f")}, r"bias_ih_l0 has shape \(14,\), expected \(15\)"),
        ({"weight_hh_l0": np.zeros((0, 0), "f")}, "weight_hh_l0 has shape"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_weights_are_named(change, expected):
    state_dict = arrays() | change
    state_dict = {name: array for name, array in state_dict.items() if array is not None}
    with pytest.raises(ValueError, match=expected):
        interop.load(state_dict)


def test_integers_are_no_weights():
    with pytest.raises(TypeError, match="weight_hh_l0 must have a floating point dtype, got int32"):
        interop.load(arrays() | {"weight_hh_l0": np.zeros((15, 5), np.int32)})


def test_layers_of_different_sizes_are_rejected():
    first, second = Model(hidden=4).init(0), Model(input=4, hidden=6).init(0)
    with pytest.raises(ValueError, match="same directions and hidden size"):
        interop.dump(gru_jax.Stack(((first,), (second,))))
    wide = Model(input=8).init(0)
    with pytest.raises(ValueError, match="same directions and hidden size"):
        interop.dump(gru_jax.Stack(((first, first), (wide,))))


def test_other_arguments_are_rejected():
    with pytest.raises(TypeError, match="got int"):
        interop.dump(3)
    with pytest.raises(TypeError, match="got int"):
        interop.load(3)
    with pytest.raises(ValueError, match="got a stack"):
        interop.dump(STACK.init(0), cell=True)
    for path, expected in (("gru.npz", "expected a name"), ("absent.safetensors", "No such file")):
        with pytest.raises(FileError, match=f"{path}: {expected}"):
            interop.load(path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_pytorch_s_own_samples_of_its_modules(torch):
    """Those that PyTorch tests its modules with, all of them."""
    pytest.importorskip("expecttest", reason="PyTorch's own tests need expecttest")
    from torch.testing._internal.common_modules import module_db

    torch.manual_seed(0)
    tested = 0
    for info in module_db:
        if info.module_cls not in (torch.nn.GRU, torch.nn.GRUCell):
            continue
        of_cpu = {"device": "cpu", "dtype": torch.float32, "requires_grad": False}
        for sample in info.module_inputs_func(info, **of_cpu, training=False):
            made = sample.constructor_input
            module = info.module_cls(*made.args, **made.kwargs)
            xs, *h0 = sample.forward_input.args
            with torch.no_grad():
                expected = module(xs, *h0)
            params = interop.load(module)
            given = [jnp.asarray(h.numpy()) for h in h0]
            if info.module_cls is torch.nn.GRUCell:
                got = [gru_jax.step(params, *given, jnp.asarray(xs.numpy()))]
                expected = [expected]
            else:
                states = None
                if given:
                    by_direction = given[0].reshape(made.kwargs["num_layers"], -1, *h0[0].shape[1:])
                    states = tuple(map(tuple, by_direction))
                last, ys = gru_jax.unroll_stack(params, jnp.asarray(xs.numpy()), states)
                got = [ys, jnp.stack([state for layer in last for state in layer])]
            for value, want in zip(got, expected, strict=True):
                # Inputs and states are up to 9: sums of tens, which are rounded at 2e-6.
                np.testing.assert_allclose(value, want.numpy(), rtol=0, atol=1e-5)
            tested += 1
    assert tested >= 18
