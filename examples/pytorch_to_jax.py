"""Loads the weights of a torch.nn.GRU, compares outputs, and dumps trained weights back.

Needs PyTorch: pip install -e ".[interop]".
"""

import jax
import jax.numpy as jnp
import torch

import gru_jax
import gru_jax.interop.torch

TIME, BATCH, FEATURES, HIDDEN = 30, 4, 8, 16


def main():
    torch.manual_seed(0)
    theirs = torch.nn.GRU(FEATURES, HIDDEN, num_layers=2, bidirectional=True)
    stack = gru_jax.interop.torch.load(theirs)  # a gru_jax.Stack

    # Padded sequences: PyTorch wants them packed, we want the lengths.
    lengths = [30, 7, 12, 1]
    xs = torch.randn(TIME, BATCH, FEATURES)
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        xs, torch.tensor(lengths), enforce_sorted=False
    )
    output, h_n = theirs(packed)
    output, _ = torch.nn.utils.rnn.pad_packed_sequence(output, total_length=TIME)

    states, ys = gru_jax.unroll_stack(stack, xs.numpy(), lengths=jnp.array(lengths))
    last = jnp.stack([state for layer in states for state in layer])
    differences = [
        float(jnp.abs(ys - output.detach().numpy()).max()),
        float(jnp.abs(last - h_n.detach().numpy()).max()),
    ]
    print(
        f"largest difference of outputs {differences[0]:.1e}, of last states {differences[1]:.1e}"
    )

    # One step of gradient descent in JAX, and back to PyTorch.
    grads = jax.grad(lambda stack: (gru_jax.unroll_stack(stack, xs.numpy())[1] ** 2).mean())(stack)
    stack = jax.tree.map(lambda value, grad: value - 0.1 * grad, stack, grads)
    theirs.load_state_dict(gru_jax.interop.torch.dump(stack))
    differences.append(
        float(
            jnp.abs(
                gru_jax.unroll_stack(stack, xs.numpy())[1] - theirs(xs)[0].detach().numpy()
            ).max()
        )
    )
    print(f"largest difference after a step in JAX and back {differences[2]:.1e}")
    return differences


if __name__ == "__main__":
    main()
