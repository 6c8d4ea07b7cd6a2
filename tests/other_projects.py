"""
Checkpoints in the layout of other projects, made without them, and their forward passes as plain loops over events.
"""

import math
import sys
import types

import numpy
import torch

ACTIVATIONS = {"gelu": torch.nn.functional.gelu, "relu": torch.relu, "swish": lambda x: x * torch.sigmoid(x)}


def random_weights(shapes):
    """Random throughout: a bias of zero or a norm of one would hide that it is missing."""
    return {name: torch.randn(*shape) * 0.4 for name, shape in shapes.items()}


def linear_shapes(name, inputs, outputs):
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def norm_shapes(name, size):
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}


def linear(weights, name, x):
    return weights[f"{name}.weight"] @ x + weights[f"{name}.bias"]


def norm(weights, name, x, eps):
    centred = x - x.mean()
    return centred / math.sqrt(float((centred**2).mean()) + eps) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def attend(queries, keys, values, num_heads, sees):
    """One event after the other, one head after the other; `sees(event, other)` says who sees whom."""
    size = len(queries[0]) // num_heads
    results = []
    for event, query in enumerate(queries):
        others = [other for other in range(len(keys)) if sees(event, other)]
        parts = []
        for start in range(0, size * num_heads, size):
            head = slice(start, start + size)
            products = torch.stack([query[head] @ keys[other][head] for other in others]) / math.sqrt(size)
            shares = torch.softmax(products, dim=0)
            parts.append(sum(share * values[other][head] for share, other in zip(shares, others, strict=True)))
        results.append(torch.cat(parts))
    return results


def save_with_class(content, path, module, name, **options):
    """`torch.save` of a checkpoint that holds an object of a class which is gone when it is read."""
    found = type(name, (), {"__module__": module, "__qualname__": name})
    parts = module.split(".")
    names = [".".join(parts[: number + 1]) for number in range(len(parts))]
    modules = {full: types.ModuleType(full) for full in names if full not in sys.modules}
    sys.modules.update(modules)
    try:
        setattr(sys.modules[module], name, found)
        torch.save(content(found), path, **options)
    finally:
        for full in modules:
            del sys.modules[full]


# RecBole 1.2.1

RECBOLE = {"n_layers": 2, "n_heads": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-3, "MAX_ITEM_LIST_LENGTH": 6}
RECBOLE |= {"hidden_dropout_prob": 0.2, "attn_dropout_prob": 0.1, "initializer_range": 0.02, "dataset": "tiny"}


def recbole_weights(model, num_items=9, hidden=8, inner=12, window=6):
    rows = num_items + 1 + (model == "BERT4Rec")  # padding first, [MASK] last
    shapes = {"item_embedding.weight": (rows, hidden), "position_embedding.weight": (window, hidden)}
    shapes |= norm_shapes("LayerNorm", hidden)
    for layer in range(RECBOLE["n_layers"]):
        attention, feed = (f"trm_encoder.layer.{layer}.{part}" for part in ("multi_head_attention", "feed_forward"))
        for part in ("query", "key", "value", "dense"):
            shapes |= linear_shapes(f"{attention}.{part}", hidden, hidden)
        shapes |= linear_shapes(f"{feed}.dense_1", hidden, inner) | linear_shapes(f"{feed}.dense_2", inner, hidden)
        shapes |= norm_shapes(f"{attention}.LayerNorm", hidden) | norm_shapes(f"{feed}.LayerNorm", hidden)
    if model == "BERT4Rec":
        shapes |= linear_shapes("output_ffn", hidden, hidden) | norm_shapes("output_ln", hidden)
        shapes["output_bias"] = (num_items + 1,)
    return random_weights(shapes)


def save_recbole(path, model="BERT4Rec", weights=None, **settings):
    """A checkpoint as RecBole's trainer writes it; returns the weights."""
    weights = recbole_weights(model) if weights is None else weights

    def content(config_class):
        config = config_class()
        config.final_config_dict = RECBOLE | {"model": model, "device": torch.device("cpu")} | settings
        return {"config": config, "epoch": 3, "state_dict": weights, "other_parameter": None, "optimizer": {}}

    save_with_class(content, path, "recbole.config.configurator", "Config", pickle_protocol=4)
    return weights


def recbole_scores(weights, items, model="BERT4Rec", activation="gelu"):
    """Scores of all items after the items 1, 2 ..., by what `forward` and `full_sort_predict` compute."""
    eps, num_heads = RECBOLE["layer_norm_eps"], RECBOLE["n_heads"]
    is_causal = model == "SASRec"
    table = weights["item_embedding.weight"]
    tokens = items if is_causal else [*items, len(table) - 1]
    tokens = tokens[-len(weights["position_embedding.weight"]) :]
    x = [table[token] + weights["position_embedding.weight"][place] for place, token in enumerate(tokens)]
    x = [norm(weights, "LayerNorm", event, eps) for event in x]
    for layer in range(RECBOLE["n_layers"]):
        attention, feed = (f"trm_encoder.layer.{layer}.{part}" for part in ("multi_head_attention", "feed_forward"))
        q, k, v = (
            [linear(weights, f"{attention}.{part}", event) for event in x] for part in ("query", "key", "value")
        )
        seen = attend(q, k, v, num_heads, lambda event, other: other <= event or not is_causal)
        x = [
            norm(weights, f"{attention}.LayerNorm", linear(weights, f"{attention}.dense", found) + event, eps)
            for found, event in zip(seen, x, strict=True)
        ]
        inner = [ACTIVATIONS[activation](linear(weights, f"{feed}.dense_1", event)) for event in x]
        x = [
            norm(weights, f"{feed}.LayerNorm", linear(weights, f"{feed}.dense_2", found) + event, eps)
            for found, event in zip(inner, x, strict=True)
        ]
    if is_causal:
        return table[1:] @ x[-1]
    vector = norm(weights, "output_ln", torch.nn.functional.gelu(linear(weights, "output_ffn", x[-1])), eps)
    return table[1:-1] @ vector + weights["output_bias"][1:]


# The pre-norm models: RecTools 0.19.0, RePlay 0.22.0, BERT4Rec-VAE-Pytorch


def sample_norm(weights, name, x, eps):
    """Divides by the deviation of a sample, to which eps is added."""
    centred = x - x.mean()
    deviation = math.sqrt(float((centred**2).sum()) / (len(x) - 1))
    return centred / (deviation + eps) * weights[f"{name}.a_2"] + weights[f"{name}.b_2"]


def pre_norm_block(weights, x, names, num_heads, *, normalise=norm, eps=1e-5, activation=ACTIVATIONS["gelu"]):
    """`names`: of the first norm, query, key, value and output of the attention, the second norm, the two layers."""
    norm_1, *attention, out, norm_2, first, second = names
    inputs = [normalise(weights, norm_1, event, eps) for event in x]
    q, k, v = ([linear(weights, name, event) for event in inputs] for name in attention)
    seen = attend(q, k, v, num_heads, lambda event, other: True)
    x = [event + linear(weights, out, found) for event, found in zip(x, seen, strict=True)]
    inner = [activation(linear(weights, first, normalise(weights, norm_2, event, eps))) for event in x]
    return [event + linear(weights, second, found) for event, found in zip(x, inner, strict=True)]


def joined_shapes(name, hidden):
    shapes = {f"{name}.in_proj_weight": (3 * hidden, hidden), f"{name}.in_proj_bias": (3 * hidden,)}
    return shapes | linear_shapes(f"{name}.out_proj", hidden, hidden)


def parted(weights, name):
    """Query, key and value of a `torch.nn.MultiheadAttention` by names of their own."""
    return {
        f"{name}.{role}.{part}": weights[f"{name}.in_proj_{part}"][place * size : (place + 1) * size]
        for part in ("weight", "bias")
        for size in [len(weights[f"{name}.in_proj_{part}"]) // 3]
        for place, role in enumerate("qkv")
    }


def rectools_weights(num_items=9, hidden=8, window=6):
    shapes = {"torch_model.item_model.item_net_blocks.0.ids_emb.weight": (num_items + 2, hidden)}
    shapes["torch_model.pos_encoding_layer.pos_emb.weight"] = (window, hidden)
    for layer in range(2):
        block = f"torch_model.transformer_layers.transformer_blocks.{layer}"
        shapes |= joined_shapes(f"{block}.multi_head_attn", hidden)
        shapes |= norm_shapes(f"{block}.layer_norm_1", hidden) | norm_shapes(f"{block}.layer_norm_2", hidden)
        shapes |= linear_shapes(f"{block}.feed_forward.ff_linear_1", hidden, 4 * hidden)
        shapes |= linear_shapes(f"{block}.feed_forward.ff_linear_2", 4 * hidden, hidden)
    return random_weights(shapes)


def rectools_content(weights, item_ids, **settings):
    nets = "rectools.models.nn.transformers"
    config = {
        "cls": "BERT4RecModel",
        "n_heads": 2,
        "session_max_len": 6,
        "dropout_rate": 0.1,
        "use_pos_emb": True,
        "use_causal_attn": False,
        "use_key_padding_mask": True,
        "data_preparator_type": f"{nets}.bert4rec.BERT4RecDataPreparator",
        "pos_encoding_type": f"{nets}.net_blocks.LearnableInversePositionalEncoding",
        "transformer_layers_type": f"{nets}.net_blocks.PreLNTransformerLayers",
        "similarity_module_type": f"{nets}.similarity.DistanceSimilarityModule",
        "backbone_type": f"{nets}.torch_backbone.TransformerTorchBackbone",
        "pos_encoding_kwargs": None,
        "similarity_module_kwargs": None,
        "backbone_kwargs": None,
    }
    ids = numpy.array(["PAD", "MASK", *item_ids], dtype=object)
    hyper_parameters = {"model_config": config | settings, "item_external_ids": ids}
    return {"state_dict": weights, "hyper_parameters": hyper_parameters}


def rectools_scores(weights, items):
    table = weights["torch_model.item_model.item_net_blocks.0.ids_emb.weight"]
    positions = weights["torch_model.pos_encoding_layer.pos_emb.weight"]
    tokens = [*(item + 1 for item in items), 1][-len(positions) :]
    x = [table[token] + positions[len(tokens) - 1 - place] for place, token in enumerate(tokens)]
    for layer in range(2):
        block = f"torch_model.transformer_layers.transformer_blocks.{layer}"
        attention = f"{block}.multi_head_attn"
        names = [f"{block}.layer_norm_1", *(f"{attention}.{role}" for role in "qkv"), f"{attention}.out_proj"]
        names += [f"{block}.layer_norm_2", f"{block}.feed_forward.ff_linear_1", f"{block}.feed_forward.ff_linear_2"]
        x = pre_norm_block(weights | parted(weights, attention), x, names, 2)
    return table[2:] @ x[-1]


REPLAY = {"head_count": 2, "max_seq_len": 6, "dropout_rate": 0.1, "enable_positional_embedding": True}
REPLAY |= {"pass_per_transformer_block_count": 2}


def replay_weights(is_tied, num_items=9, hidden=8, window=6):
    items = "_model.item_embedder.cat_embeddings.item_id_seq.weight"
    shapes = {items: (num_items, hidden), "_model.item_embedder.mask_embedding.weight": (1, hidden)}
    shapes["_model.item_embedder.position.pe.weight"] = (window, hidden)
    for layer in range(2):
        block = f"_model.transformer_blocks.{layer}"
        shapes |= joined_shapes(f"{block}.attention", hidden)
        shapes |= norm_shapes(f"{block}.attention_norm", hidden) | norm_shapes(f"{block}.pff_norm", hidden)
        shapes |= linear_shapes(f"{block}.pff.w_1", hidden, 4 * hidden)
        shapes |= linear_shapes(f"{block}.pff.w_2", 4 * hidden, hidden)
    shapes |= (
        {"_model._head.out_bias": (num_items,)} if is_tied else linear_shapes("_model._head.linear", hidden, num_items)
    )
    weights = random_weights(shapes)
    if is_tied:
        weights["_model._head._item_embedder.cat_embeddings.item_id_seq.weight"] = weights[items]
    return weights


def save_replay(path, weights, features=("item_id_seq",), **settings):
    def content(schema_class):
        schema = schema_class()
        schema._tensor_schema = dict.fromkeys(features)
        return {"state_dict": weights, "hyper_parameters": REPLAY | {"tensor_schema": schema} | settings}

    save_with_class(content, path, "replay.data.nn.schema", "TensorSchema")


def replay_scores(weights, items):
    table = weights["_model.item_embedder.cat_embeddings.item_id_seq.weight"]
    positions = weights["_model.item_embedder.position.pe.weight"]
    vectors = [*(table[item - 1] for item in items), weights["_model.item_embedder.mask_embedding.weight"][0]]
    vectors = vectors[-len(positions) :]
    x = [vector + positions[len(positions) - len(vectors) + place] for place, vector in enumerate(vectors)]
    for layer in (0, 0, 1, 1):  # two passes over each block
        block = f"_model.transformer_blocks.{layer}"
        attention = f"{block}.attention"
        names = [f"{block}.attention_norm", *(f"{attention}.{role}" for role in "qkv"), f"{attention}.out_proj"]
        names += [f"{block}.pff_norm", f"{block}.pff.w_1", f"{block}.pff.w_2"]
        x = pre_norm_block(weights | parted(weights, attention), x, names, 2)
    if "_model._head.out_bias" in weights:
        return table @ x[-1] + weights["_model._head.out_bias"]
    return linear(weights, "_model._head.linear", x[-1])


def vae_weights(num_items=9, hidden=8, window=6):
    shapes = {"bert.embedding.token.weight": (num_items + 2, hidden)}
    shapes["bert.embedding.position.pe.weight"] = (window, hidden)
    for layer in range(2):
        block = f"bert.transformer_blocks.{layer}"
        for name in (*(f"linear_layers.{number}" for number in range(3)), "output_linear"):
            shapes |= linear_shapes(f"{block}.attention.{name}", hidden, hidden)
        shapes |= linear_shapes(f"{block}.feed_forward.w_1", hidden, 4 * hidden)
        shapes |= linear_shapes(f"{block}.feed_forward.w_2", 4 * hidden, hidden)
        for name in ("input_sublayer", "output_sublayer"):
            shapes |= {f"{block}.{name}.norm.a_2": (hidden,), f"{block}.{name}.norm.b_2": (hidden,)}
    return random_weights(shapes | linear_shapes("out", hidden, num_items + 1))


def tanh_gelu(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def vae_scores(weights, items):
    table, positions = weights["bert.embedding.token.weight"], weights["bert.embedding.position.pe.weight"]
    tokens = [*items, len(table) - 1][-len(positions) :]
    x = [table[token] + positions[len(positions) - len(tokens) + place] for place, token in enumerate(tokens)]
    for layer in range(2):
        block = f"bert.transformer_blocks.{layer}"
        attention = [f"{block}.attention.linear_layers.{number}" for number in range(3)]
        names = [f"{block}.input_sublayer.norm", *attention, f"{block}.attention.output_linear"]
        names += [f"{block}.output_sublayer.norm", f"{block}.feed_forward.w_1", f"{block}.feed_forward.w_2"]
        x = pre_norm_block(weights, x, names, 2, normalise=sample_norm, eps=1e-6, activation=tanh_gelu)
    return linear(weights, "out", x[-1])[1:]
