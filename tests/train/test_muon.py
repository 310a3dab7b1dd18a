import pytest
import torch

from touchstone.nn.products import onednn_product, torch_product
from touchstone.train.muon import QUINTIC, Muon, orthogonalise


def quintic(singular_values, n_iterations):
    """What the published iteration does to each singular value of a matrix of Frobenius norm 1."""
    a, b, c = QUINTIC
    for _ in range(n_iterations):
        singular_values = a * singular_values + b * singular_values**3 + c * singular_values**5
    return singular_values


def by_singular_values(matrix, n_iterations):
    """The definition: U p(S / |S|) V^T in double precision."""
    u, s, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    return u @ torch.diag_embed(quintic(s / s.norm(dim=-1, keepdim=True), n_iterations)) @ vh


def plain_update(parameter, momentum, gradient, *, beta, rate, decay, n_iterations):
    """One step of Muon as its authors' code has it, on one matrix in double precision."""
    momentum.mul_(beta).add_((1 - beta) * gradient)
    ahead = (1 - beta) * gradient + beta * momentum
    update = by_singular_values(ahead, n_iterations) * max(1, parameter.shape[0] / parameter.shape[1]) ** 0.5
    parameter.mul_(1 - rate * decay).sub_(rate * update)


SHAPES = [(12, 12), (12, 15), (15, 12), (12, 50), (50, 12)]  # near-square ones take the direct form, the others the Gram form


@pytest.mark.parametrize("product", [torch_product, onednn_product])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n_iterations", [1, 2, 5])
def test_orthogonalising_applies_the_quintic_to_the_singular_values(shape, n_iterations, product):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    got = orthogonalise(matrix, n_iterations, product).double()
    torch.testing.assert_close(got, by_singular_values(matrix, n_iterations), rtol=0, atol=2e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_five_iterations_bring_singular_values_into_the_published_range(shape):
    matrix = torch.randn(3, *shape, generator=torch.Generator().manual_seed(4))
    values = torch.linalg.svdvals(orthogonalise(matrix))
    assert values.max() < 1.5
    assert (values > 0.5).double().mean() > 0.9  # the smallest ones of a square Gaussian matrix are still on their way


def test_an_ill_conditioned_matrix_survives_the_gram_form():
    matrix = torch.randn(12, 60, generator=torch.Generator().manual_seed(5)) * torch.logspace(0, -6, 12)[:, None]
    torch.testing.assert_close(orthogonalise(matrix).double(), by_singular_values(matrix, 5), rtol=0, atol=2e-4)


def test_a_batch_is_orthogonalised_matrix_by_matrix():
    batch = torch.randn(4, 7, 11, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    torch.testing.assert_close(orthogonalise(batch), torch.stack([orthogonalise(matrix) for matrix in batch]), rtol=0, atol=1e-12)


def test_a_zero_gradient_stays_a_zero_update():
    assert orthogonalise(torch.zeros(5, 7)).abs().max() == 0


@pytest.mark.parametrize("product", [torch_product, onednn_product])
def test_several_steps_equal_the_authors_formula(product):
    rng = torch.Generator().manual_seed(7)
    shapes = {"up": (20, 6), "down": (6, 20), "q": (6, 6), "k": (6, 6)}
    parameters = {name: torch.nn.Parameter(torch.randn(shape, generator=rng)) for name, shape in shapes.items()}
    expected = {name: p.detach().double().clone() for name, p in parameters.items()}
    momenta = {name: torch.zeros_like(p) for name, p in expected.items()}
    muon = Muon(parameters, momentum=0.9, n_iterations=5, weight_decay=0.3, product=product)
    for rate in (0.02, 0.05, 0.01):
        for name, parameter in parameters.items():
            parameter.grad = torch.randn(parameter.shape, generator=rng)
            plain_update(expected[name], momenta[name], parameter.grad.double(), beta=0.9, rate=rate, decay=0.3, n_iterations=5)
        muon.step(rate)
    for name, parameter in parameters.items():
        torch.testing.assert_close(parameter.detach().double(), expected[name], rtol=0, atol=2e-5)


def test_updates_agree_with_torchs_own_muon_up_to_its_bfloat16_products():
    rng = torch.Generator().manual_seed(8)
    start = torch.randn(16, 9, generator=rng)
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    reference = torch.optim.Muon([theirs], lr=0.1, momentum=0.95, nesterov=True, weight_decay=0.0)
    ours.grad = torch.randn(start.shape, generator=rng)
    theirs.grad = ours.grad.clone()
    Muon({"w": ours}, momentum=0.95, n_iterations=5).step(0.1)
    reference.step()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.1 * 0.06)  # bfloat16 has 8 bits; a wrong scale or sign is off by 0.1


@pytest.mark.parametrize("shape", SHAPES)
def test_in_bfloat16_the_iteration_is_rounded_and_no_more(shape):
    matrix = torch.randn(3, *shape, generator=torch.Generator().manual_seed(9))
    rough, exact = orthogonalise(matrix, dtype=torch.bfloat16), orthogonalise(matrix)
    assert rough.dtype == torch.float32
    assert (rough - exact).norm() < 0.05 * exact.norm()  # 15 products of numbers with 8 bits


def test_a_parameter_without_a_gradient_is_left_alone():
    idle, busy = torch.nn.Parameter(torch.ones(3, 4)), torch.nn.Parameter(torch.ones(3, 4))
    busy.grad = torch.eye(3, 4)
    Muon({"idle": idle, "busy": busy}, momentum=0.9, n_iterations=5, weight_decay=0.5).step(0.1)
    assert torch.equal(idle, torch.ones(3, 4))
    assert not torch.equal(busy, torch.ones(3, 4))
