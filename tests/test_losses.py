"""The chunked loss against plain cross-entropy, in value and in gradient, on both sides of the border of a chunk."""

import math

import pytest
import torch

from hf_bert4rec import losses
from hf_bert4rec.losses import ROWS_PER_BLOCK, catalogue_cross_entropy


def random_case(num_labels, vocab_size, with_bias=True):
    """Hidden states, embeddings, bias and labels, of which every fifth is -100."""
    hidden_states = torch.randn(num_labels, 8, requires_grad=True)
    embeddings = torch.randn(vocab_size, 8, requires_grad=True)
    bias = torch.randn(vocab_size, requires_grad=True) if with_bias else None
    labels = torch.randint(0, vocab_size, (num_labels,))
    labels[4::5] = -100
    return hidden_states, embeddings, bias, labels


def naive_loss(hidden_states, embeddings, bias, labels):
    """Sum over the labels of minus the log of the softmax, one row at a time; and the number of labels."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for hidden_state, label in zip(hidden_states, labels.tolist(), strict=True):
        if label != -100:
            scores = (embeddings @ hidden_state + (0 if bias is None else bias)).double()
            total = total + scores.exp().sum().log() - scores[label]
            count += 1
    return total, count


def gradients(loss, *tensors):
    return torch.autograd.grad(loss, [tensor for tensor in tensors if tensor is not None])


def largest_allocation(function):
    """Bytes of the largest piece of memory that any operation asks for."""
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        function()
    return max(event.cpu_memory_usage for event in profile.function_events)


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize(("num_labels", "vocab_size"), [(1, 4), (3, 50), (255, 7), (256, 7), (257, 7), (600, 4)])
def test_loss_and_gradients_equal_a_naive_loop(num_labels, vocab_size, with_bias):
    assert ROWS_PER_BLOCK[1] == 256  # else the shapes above miss the border of a block
    *tensors, labels = random_case(num_labels, vocab_size, with_bias)
    total, count = naive_loss(*tensors, labels)
    loss = catalogue_cross_entropy(*tensors, labels)
    torch.testing.assert_close(loss, (total / count).float())
    for found, expected in zip(gradients(loss, *tensors), gradients(total / count, *tensors), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("num_items", [1000, torch.tensor(1000)])
def test_the_sum_is_divided_by_the_number_of_labels_of_all_batches(num_items):
    *tensors, labels = random_case(300, 9)
    total, _ = naive_loss(*tensors, labels)
    loss = catalogue_cross_entropy(*tensors, labels, num_items)
    torch.testing.assert_close(loss, (total / 1000).float())


def test_parts_of_a_batch_add_up_to_the_whole():
    *tensors, labels = random_case(300, 9)
    hidden_states, embeddings, bias = tensors
    num_items = int((labels != -100).sum())
    whole = catalogue_cross_entropy(*tensors, labels)
    parts = sum(
        catalogue_cross_entropy(hidden_states[rows], embeddings, bias, labels[rows], num_items)
        for rows in (slice(0, 7), slice(7, 280), slice(280, 300))
    )
    torch.testing.assert_close(parts, whole)
    for found, expected in zip(gradients(parts, *tensors), gradients(whole, *tensors), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_equal_scores_cost_the_logarithm_of_the_catalogue():
    loss = catalogue_cross_entropy(torch.zeros(5, 4), torch.ones(50, 4), None, torch.arange(5))
    assert loss.item() == pytest.approx(math.log(50))


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("num_labels", [0, 3])
def test_without_a_label_the_loss_is_zero_and_reaches_every_parameter(num_labels, with_bias):
    *tensors, labels = random_case(num_labels, 9, with_bias)
    for num_items in (None, 12):
        loss = catalogue_cross_entropy(*tensors, torch.full_like(labels, -100), num_items)
        assert loss.item() == 0
        assert all((gradient == 0).all() for gradient in gradients(loss, *tensors))


def test_where_no_process_has_a_label_the_loss_is_zero_and_not_the_quotient_of_zeros():
    *tensors, labels = random_case(0, 9)
    assert catalogue_cross_entropy(*tensors, labels, torch.tensor(0)).item() == 0


def test_the_matrix_of_all_scores_never_exists():
    hidden_states, embeddings, bias, labels = random_case(1500, 80)

    def plain():
        torch.nn.functional.cross_entropy(hidden_states @ embeddings.T + bias, labels).backward()

    assert largest_allocation(plain) >= 1500 * 80 * 4
    chunked = largest_allocation(lambda: catalogue_cross_entropy(hidden_states, embeddings, bias, labels).backward())
    assert chunked < 300 * 80 * 4  # 1,200 labels in five blocks


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("vocab_size", [6, 7, 8, 50])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tiles_of_the_catalogue_add_up(monkeypatch, with_bias, vocab_size, dtype):
    monkeypatch.setattr(losses, "ITEMS_PER_TILE", 7)
    monkeypatch.setattr(losses, "ROWS_PER_BLOCK", (1, 16))
    *tensors, labels = random_case(50, vocab_size, with_bias)
    total, count = naive_loss(*tensors, labels)
    cast = [None if tensor is None else tensor.detach().to(dtype).requires_grad_() for tensor in tensors]
    loss = catalogue_cross_entropy(*cast, labels)
    assert loss.dtype == dtype
    torch.testing.assert_close(loss, (total / count).to(dtype), rtol=1e-6, atol=1e-6)
    for found, expected in zip(gradients(loss, *cast), gradients(total / count, *tensors), strict=True):
        torch.testing.assert_close(found, expected.to(dtype), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-3, 1e2, 1e4])
def test_scores_of_any_size_are_exact_across_tiles(monkeypatch, scale):
    monkeypatch.setattr(losses, "ITEMS_PER_TILE", 7)
    *tensors, labels = random_case(50, 40)
    hidden_states, embeddings, bias = scaled = [(tensor * scale).detach().requires_grad_() for tensor in tensors]
    expected = torch.nn.functional.cross_entropy(hidden_states @ embeddings.T + bias, labels)
    loss = catalogue_cross_entropy(*scaled, labels)
    torch.testing.assert_close(loss, expected)
    for found, wanted in zip(gradients(loss, *scaled), gradients(expected, *scaled), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6 * max(1, scale))


@pytest.mark.parametrize("shift", [-1000.0, -50.0, 50.0, 1000.0])
def test_a_row_of_any_scores_counts_beside_others(shift):
    hidden_states, embeddings = torch.randn(6, 8), torch.randn(30, 8)
    hidden_states[:, 0], embeddings[:, 0] = 0, 1
    hidden_states[2, 0] = shift  # added to all scores of the row, whose probabilities are as before
    hidden_states.requires_grad_()
    labels = torch.arange(6)
    loss, expected = catalogue_cross_entropy(hidden_states, embeddings, None, labels), hidden_states.detach().double()
    expected[2, 0] = 0
    expected.requires_grad_()
    plain = torch.nn.functional.cross_entropy(expected @ embeddings.double().T, labels)
    torch.testing.assert_close(loss, plain.float(), rtol=1e-4, atol=1e-4)
    for found, wanted in zip(gradients(loss, hidden_states), gradients(plain, expected), strict=True):
        torch.testing.assert_close(found, wanted.float(), rtol=1e-4, atol=1e-4)


def test_gradients_can_be_asked_for_twice():
    *tensors, labels = random_case(50, 9)
    loss = catalogue_cross_entropy(*tensors, labels)
    first = torch.autograd.grad(loss, tensors, retain_graph=True)
    for once, again in zip(first, gradients(3 * loss, *tensors), strict=True):
        torch.testing.assert_close(again, 3 * once)


def test_a_second_pass_through_the_graph_is_possible_whatever_the_mode():
    *tensors, labels = random_case(50, 9)
    loss = catalogue_cross_entropy(*tensors, labels)
    first = torch.autograd.grad(loss, tensors, retain_graph=True)
    for once, again in zip(first, torch.autograd.grad(loss, tensors, create_graph=True), strict=True):
        torch.testing.assert_close(again, once)


def test_float16_products_elsewhere_leave_the_loss_in_single_precision():
    *tensors, labels = random_case(50, 40)
    tensors[2] = torch.full((40,), 15.0, requires_grad=True)
    expected = gradients(catalogue_cross_entropy(*tensors, labels), *tensors)
    with torch.autocast("cpu", dtype=torch.float16):
        loss = catalogue_cross_entropy(*tensors, labels)
    for found, wanted in zip(gradients(loss, *tensors), expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_no_gradient_is_computed_where_none_is_asked_for():
    *tensors, labels = random_case(20, 5024)
    with torch.no_grad():
        assert largest_allocation(lambda: catalogue_cross_entropy(*tensors, labels)) == 16 * 5024 * 4  # the scores
        loss = catalogue_cross_entropy(*tensors, labels)
    torch.testing.assert_close(loss, catalogue_cross_entropy(*tensors, labels).detach())


@pytest.mark.parametrize("num_labels", [300, 20_000])
def test_half_precision_stays_close_to_single_however_many_labels(num_labels):
    *tensors, labels = random_case(num_labels, 50)
    tensors = [tensor.detach().bfloat16().requires_grad_() for tensor in tensors]
    expected = catalogue_cross_entropy(*(tensor.float() for tensor in tensors), labels)
    loss = catalogue_cross_entropy(*tensors, labels)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-3)
    assert all(gradient.dtype == torch.bfloat16 for gradient in gradients(loss, *tensors))


def test_the_loss_is_the_same_where_a_compiler_traces_it():
    *tensors, labels = random_case(300, 9)
    compiled = torch.compile(catalogue_cross_entropy, backend="eager", fullgraph=True)
    loss, expected = compiled(*tensors, labels), catalogue_cross_entropy(*tensors, labels)
    torch.testing.assert_close(loss, expected)
    for found, wanted in zip(gradients(loss, *tensors), gradients(expected, *tensors), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("num_labels", [0, 1, 33, 200])
def test_bfloat16_on_a_cpu_is_close_to_float32_and_sums_over_blocks(monkeypatch, with_bias, num_labels):
    monkeypatch.setattr(losses, "ROWS_PER_BLOCK", (1, 64))  # blocks of at most 64 rows, the last one shorter
    *tensors, labels = random_case(num_labels, 50, with_bias)
    expected = catalogue_cross_entropy(*tensors, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = catalogue_cross_entropy(*tensors, labels)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=1e-3)
    for gradient, wanted in zip(gradients(found, *tensors), gradients(expected, *tensors), strict=True):
        assert gradient.shape == wanted.shape
        assert (gradient - wanted).norm() <= 0.02 * wanted.norm() + 1e-6


def test_bfloat16_holds_one_block_of_scores_at_most(monkeypatch):
    monkeypatch.setattr(losses, "BYTES_PER_BLOCK", 64 * 5056 * 2)
    *tensors, labels = random_case(640, 5056)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        largest = largest_allocation(lambda: catalogue_cross_entropy(*tensors, labels))
    assert largest <= 64 * 5056 * 2 + 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocab_size", [50, 4096, 8193])
def test_rows_of_scores_begin_at_lines_of_the_cache_that_are_an_odd_number_apart(dtype, vocab_size):
    catalogue = losses._Catalogue(torch.randn(vocab_size, 4).to(dtype), torch.randn(vocab_size).to(dtype), False)
    block = torch.randn(3, 4).to(dtype)
    memory = block.new_empty(3 * catalogue.stride * len(catalogue.tiles))
    found = list(catalogue._scores(block, catalogue.bias, memory))
    for scores in found:
        lines, rest = divmod(scores.stride(0) * dtype.itemsize, 64)
        assert (lines % 2, rest, scores.data_ptr() % 64) == (1, 0, 0)
    expected = block.float() @ catalogue.items.float().T + catalogue.bias.float()
    torch.testing.assert_close(torch.cat(found, 1).float(), expected, rtol=1e-2, atol=3e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_many_labels_take_memory_of_one_size_and_in_bfloat16_blocks_of_one_size(monkeypatch, dtype):
    sizes, softmax = [], losses._Catalogue._softmax
    monkeypatch.setattr(losses, "BYTES_PER_BLOCK", 64 * 5000 * dtype.itemsize)
    monkeypatch.setattr(losses, "ROWS_PER_BLOCK", (1, 64))
    monkeypatch.setattr(
        losses._Catalogue,
        "_softmax",
        lambda self, block, memory: sizes.append(len(block)) or softmax(self, block, memory),
    )
    largest = set()
    for num_labels in (150, 190):
        *tensors, _ = random_case(num_labels, 5000)
        labels = torch.arange(num_labels)
        tensors = [tensor.detach().to(dtype).requires_grad_() for tensor in tensors]
        largest.add(largest_allocation(lambda given=(*tensors, labels): catalogue_cross_entropy(*given)))
    assert len(largest) == 1
    assert sizes == ([56, 56, 56, 64, 64, 64] if dtype == torch.bfloat16 else [56, 56, 38, 64, 64, 62])


@pytest.mark.parametrize("shift", [-100.0, 0.0, 100.0])
def test_bfloat16_counts_a_row_of_any_scores_beside_others(shift):
    hidden_states, embeddings = (torch.randint(-2, 3, (size, 8)).float() for size in (6, 30))  # exact in bfloat16
    hidden_states[:, 0], embeddings[:, 0] = 0, 1
    hidden_states[2, 0] = shift  # added to all scores of the row, whose probabilities are as before
    given, labels = [hidden_states.requires_grad_(), embeddings.requires_grad_()], torch.arange(6)
    expected = torch.nn.functional.cross_entropy(given[0] @ given[1].T, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = catalogue_cross_entropy(*given, None, labels)
    torch.testing.assert_close(loss, expected, rtol=1e-2, atol=0)
    for found, wanted in zip(gradients(loss, *given), gradients(expected, *given), strict=True):
        assert (found - wanted).norm() <= 0.02 * wanted.norm()
