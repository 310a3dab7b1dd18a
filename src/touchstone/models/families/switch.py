"""Switch Transformer: a T5 of which some layers have experts, one for each token, as Hugging Face keeps it.

| | t5 | here |
|---|---|---|
| feed-forward | one plain layer | in every n-th layer (n = layers / sparse layers) a router and experts of that form |
| experts a token | | one; its output times its probability, which is not renormalised |
| router | | multiplies in fp32, no bias |
| head | by two keys | the token table, hidden states times d_model^-0.5 |
| jitter | | on what the router reads; transformers, in fp32, changes what the experts read with it |
| crowded experts | | keep all their tokens |

The last row is where transformers computes something else: of one row of a batch and one forward pass, an expert takes the first
`expert_capacity` tokens only, padding among them, in training and in use; the rest pass the layer unchanged. So a text longer than
that can get other hidden states there - while a text decoded token by token cannot, since every step counts anew. Here a token's
expert depends on the token alone, whatever is around it, which is what the cache and the batch promise.
Source: Fedus et al. 2022; transformers `models/switch_transformers`.
"""

from typing import Any, Literal

from touchstone.models.families.family import ACTIVATIONS, MAX_LAYERS, Family, HfConfig
from touchstone.models.families.t5 import FAMILY as T5
from touchstone.models.families.t5 import IGNORED as T5_IGNORED
from touchstone.models.families.t5 import PLAIN, SHARED_ROWS, read_block, said_of_stacks, stack_of, two_sides
from touchstone.models.heads import LmHead
from touchstone.models.spec import EmbedSpec, ModelSpec, Stack
from touchstone.models.weights import Row
from touchstone.nn.experts import ExpertsSpec
from touchstone.nn.mlp import MlpSpec

__all__ = ["FAMILY", "WEIGHTS", "to_hf_config", "to_spec"]

MODEL_TYPES = {
    "switch_transformers": {
        "SwitchTransformersForConditionalGeneration": "lm",
        "SwitchTransformersModel": "base",
        "SwitchTransformersEncoderModel": "encoder",
    }
}

IGNORED = {
    **T5_IGNORED,
    "expert_capacity": "is the number of tokens after which transformers lets an expert's next ones pass by; here none does",
    "add_router_probs": "says what a training reports",
    "router_ignore_padding_tokens": "has no effect in any version",
    "feed_forward_proj": "repeats dense_act_fn in old files",
    **dict.fromkeys(("router_type", "batch_prioritized_routing"), "is of a first version's other routers"),
}

ONLY: dict[str, tuple[Any, str]] = {
    "tie_word_embeddings": (True, "encoder, decoder and head with tables of their own are not in the spec"),
    "router_bias": (False, "a router with a bias is not built"),
    "router_dtype": ("float32", "the router multiplies in fp32"),
    "num_selected_experts": (1, "a token has one expert"),
    "is_gated_act": (False, "experts are plain feed-forward layers"),
}

Side = Literal["encoder", "decoder"]


def _mlp_rows(ours: str, theirs: str) -> tuple[Row, ...]:
    experts = f"{theirs}experts.expert_{{e}}."
    return (
        Row(f"{ours}up_proj.weight", f"{theirs}wi.weight"),
        Row(f"{ours}down_proj.weight", f"{theirs}wo.weight"),
        Row(f"{ours}router.weight", f"{theirs}router.classifier.weight"),
        Row(f"{ours}experts.{{e}}.up_proj.weight", f"{experts}wi.weight"),
        Row(f"{ours}experts.{{e}}.down_proj.weight", f"{experts}wo.weight"),
    )


WEIGHTS = (
    *SHARED_ROWS,
    *_mlp_rows("encoder.layers.{i}.mlp.", "encoder.block.{i}.layer.1.mlp."),
    *_mlp_rows("decoder.layers.{i}.mlp.", "decoder.block.{i}.layer.2.mlp."),
)


def to_spec(config: HfConfig) -> ModelSpec:
    """The spec of a Switch Transformer's config.json."""
    d_model, dropout = config.size("d_model"), config.share("dropout_rate", 0.1)
    mlp = MlpSpec(d_ff=config.size("d_ff"), activation=config.choice("dense_act_fn", ACTIVATIONS, "relu"), dropout=dropout)
    experts = ExpertsSpec(
        n_experts=config.size("num_experts", 8),
        n_active=1,
        expert=mlp,
        renormalise=False,
        balance_weight=config.number("router_aux_loss_coef", 0.001),
        z_weight=config.number("router_z_loss_coef", 0.001),
        wide_router=True,
        jitter=config.share("router_jitter_noise", 0.01),
    )
    block = read_block(config, mlp)
    n_encoder = config.size("num_layers", 12, most=MAX_LAYERS)
    n_decoder = config.size("num_decoder_layers", n_encoder if config.has("num_decoder_layers") else 12, most=MAX_LAYERS)
    sparse = {"encoder": _read_sparse(config, "encoder", n_encoder), "decoder": _read_sparse(config, "decoder", n_decoder)}
    embed = EmbedSpec(vocab_size=config.size("vocab_size"), d_model=d_model)
    config.finish(IGNORED, {**ONLY, **two_sides(config)})

    def stack(side: Side) -> Stack:
        blocks = tuple(block.replace(mlp=experts) if with_experts else block for with_experts in sparse[side])
        return stack_of(blocks, causal=side == "decoder")

    if config.head == "encoder":
        return ModelSpec(embed=embed, encoder=stack("encoder"), head=None)
    head = LmHead(tied=True, scale=d_model**-0.5) if config.head == "lm" else None
    return ModelSpec(embed=embed, encoder=stack("encoder"), decoder=stack("decoder"), head=head)


def to_hf_config(spec: ModelSpec, model_type: str) -> dict[str, Any] | None:
    """The config.json entries that say the spec as a Switch Transformer does; None where no layer has experts."""
    said = said_of_stacks(spec)
    blocks = [block for stack in spec.stacks.values() if isinstance(stack, Stack) for block in stack.blocks]
    experts = next((block.mlp for block in blocks if isinstance(block.mlp, ExpertsSpec)), None)
    if said is None or experts is None:
        return None
    written = {
        **said,
        "d_ff": experts.expert.d_ff,
        "dense_act_fn": PLAIN[experts.expert.activation],
        "num_experts": experts.n_experts,
        "router_jitter_noise": experts.jitter,
        "router_aux_loss_coef": experts.balance_weight,
        "router_z_loss_coef": experts.z_weight,
        "router_bias": False,
        "router_dtype": "float32",
        "tie_word_embeddings": True,
    }
    for side in ("encoder", "decoder"):
        stack = spec.stacks.get(side, spec.encoder)
        assert isinstance(stack, Stack)
        found = _said_sparse([isinstance(block.mlp, ExpertsSpec) for block in stack.blocks])
        if found is None:
            return None
        written[f"num_sparse_{side}_layers"], written[f"{side}_sparse_step"] = found
    return written


def _read_sparse(config: HfConfig, side: Side, n_layers: int) -> list[bool]:
    """Which layers of a stack have experts."""
    n_sparse = config.value(f"num_sparse_{side}_layers")
    n_sparse = 3 if n_sparse is None else n_sparse
    step = config.value(f"{side}_sparse_step")
    for key, found in ((f"num_sparse_{side}_layers", n_sparse), (f"{side}_sparse_step", step)):
        if found is not None and (type(found) is not int or not 0 <= found <= MAX_LAYERS):
            config.problems.append(f"`{key}` should be a whole number from 0 to {MAX_LAYERS}")
            return [False] * n_layers
    return _sparse(n_layers, _step(n_layers, n_sparse) if step is None else step)


def _step(n_layers: int, n_sparse: int) -> int:
    """Every how many layers one has experts; with none at all the second has, as transformers counts."""
    return n_layers // n_sparse if n_sparse else n_layers


def _sparse(n_layers: int, step: int) -> list[bool]:
    return [step == 1 or (step > 1 and layer % step == 1) for layer in range(n_layers)]


def _said_sparse(layers: list[bool]) -> tuple[int, int] | None:
    """The number of sparse layers and the step that give these layers experts; None where no step does."""
    counts = [sum(layers), *range(1, len(layers) + 2), 0]
    return next(((n, step) for n in counts if _sparse(len(layers), step := _step(len(layers), n)) == layers), None)


FAMILY = Family(
    name="switch",
    architectures=MODEL_TYPES,
    to_spec=to_spec,
    to_hf_config=to_hf_config,
    weights=WEIGHTS,
    aliases={"hidden_size": "d_model", "num_attention_heads": "num_heads", "num_hidden_layers": "num_layers"},
    ignored_keys=IGNORED,
    ignored_tensors=T5.ignored_tensors,
)
