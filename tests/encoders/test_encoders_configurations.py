"""What a checkpoint's files may say: it is computed as torch does, or refused in one line that names it."""

from __future__ import annotations

import json
import time

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import parity
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from jaxconvex import encoders
from jaxconvex.encoders.configurations import DEPTHS, PLAIN

TINY = {
    "model_type": "bert",
    "vocab_size": 20,
    "max_position_embeddings": 9,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
}
SMALL = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
IDS = np.array([[3, 8, 9, 12], [4, 4, 7, 1]])


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept")
    encoders.save(encoders.initialise(TINY, num_classes=3, rngs=nnx.Rngs(0)), folder)
    return folder


@pytest.fixture
def folder(kept, tmp_path):
    for path in kept.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def edit(folder, **changes):
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))


def last_state(encoder, inputs):
    return list(encoder.hidden_states(jnp.asarray(inputs)).values())[-1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"is_decoder": True}, "is_decoder=True, attention to earlier tokens only"),
        ({"add_cross_attention": True}, "add_cross_attention=True"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type='relative_key'"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "quantization_config"),
        ({"architectures": ["JinaBertForMaskedLM"]}, "'JinaBertForMaskedLM'.* load with family='bert'"),
        ({"architectures": "BertModel"}, "architectures in the configuration must be a list"),
        ({"id2label": {"0": "a", "1": "b"}}, "names 2 classes and the file's classifier has 3"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers=1000000 parts, and the file has 41 tensors"),
        ({"num_hidden_layers": -1}, "num_hidden_layers must be a whole number"),
        ({"hidden_size": "8"}, "hidden_size must be a whole number above 0, as 768; got '8'"),
        ({"vocab_size": True}, "vocab_size must be a whole number"),
        ({"vocab_size": 10**15}, r"expected \(1000000000000000, 8\)"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps must be a number above 0, as 1e-12; got nan"),
        ({"hidden_act": ["gelu"]}, r"hidden_act must be text, as 'gelu'; got \['gelu'\]"),
        ({"num_hidden_layers": [2, 2]}, "num_hidden_layers must be a whole number"),
        ({"layer_norm_eps": 10**20}, "layer_norm_eps must be a number above 0"),
        ({"qkv_bias": "yes"}, "qkv_bias must be true or false"),
        ({"num_attention_heads": 3}, "the number of heads must divide the width"),
    ],
)
def test_configurations_of_other_networks_are_refused_at_once(changes, message, folder):
    edit(folder, **changes)
    begin = time.perf_counter()
    with pytest.raises(ValueError, match=message):
        encoders.load(folder)
    assert time.perf_counter() - begin < 10  # a million layers would take minutes


@pytest.mark.long
def test_a_head_for_another_task_is_left_out(folder):
    """Its states are right; the classifier reads each token, so that it makes no logits of a text."""
    whole, _ = encoders.load(folder)
    for name in (
        "BertForTokenClassification",
        "BertForMultipleChoice",
        "BertForQuestionAnswering",
        "TFBertForMaskedLM",
    ):
        edit(folder, architectures=[name])
        encoder, _ = encoders.load(folder)
        assert encoder.head.classifier is None and encoder(IDS).shape == (2, 4, 8)
        np.testing.assert_array_equal(last_state(encoder, IDS), last_state(whole, IDS))
    new, _ = encoders.load(folder, num_classes=5)
    encoders.save(new, folder)
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["BertForSequenceClassification"]
    np.testing.assert_array_equal(encoders.load(folder)[0](IDS), new(IDS))
    edit(folder, architectures=["XLMRobertaForSequenceClassification"])
    np.testing.assert_array_equal(encoders.load(folder, family="bert")[0](IDS), new(IDS))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w | {"bert.embeddings.LayerNorm.gamma": np.ones(8, np.float32)}, "two spellings of one tensor"),
        (
            lambda w: w | {"embeddings.LayerNorm.weight": np.ones(8, np.float32)},
            "1 unexpected: embeddings.LayerNorm.weight",
        ),
        (lambda w: w | {"classifier.weight": np.ones((3, 8), np.int8)}, "perhaps quantized: classifier.weight: I8"),
        (
            lambda w: w | {"classifier.weight": np.ones((3, 8), ml_dtypes.float8_e4m3fn)},
            "perhaps quantized: classifier.weight: F8_E4M3",
        ),
    ],
)
def test_tensors_that_are_no_weights_are_refused(change, message, folder):
    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors")
    with pytest.raises(ValueError, match=message):
        encoders.load(folder)


@pytest.mark.parametrize(
    "index",
    [
        {"weight_map": {"a": "../model.safetensors"}},
        {"weight_map": {"a": "/tmp/model.safetensors"}},
        {"weight_map": {"a": "..\\model.safetensors"}},
        {"weight_map": {"a": "pytorch_model.bin"}},
        {"weight_map": {"a": "a\0.safetensors"}},
        {"weight_map": {"a": "absent.safetensors"}},
        {"weight_map": {"a": 3}},
        {"weight_map": ["a"]},
        {"metadata": {}},
        [],
    ],
)
def test_malformed_indexes_are_refused(index, folder):
    (folder / "model.safetensors").rename(folder / "one.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"index\.json (must|names)"):
        encoders.load(folder)


def test_a_tensor_in_two_shards_is_refused(folder):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    for name in ("one", "two"):
        save_file(weights, folder / f"{name}.safetensors")
    where = {name: f"{'one' if i % 2 else 'two'}.safetensors" for i, name in enumerate(weights)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    with pytest.raises(ValueError, match=r"in one\.safetensors and in two\.safetensors"):
        encoders.load(folder)


def test_adapters_and_odd_texts(folder):
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_bytes(b"\xef\xbb\xbf" + text.replace("LABEL_0", "Küche").encode())
    assert encoders.load(folder)[0].config["id2label"]["0"] == "Küche"
    (folder / "config.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="not valid JSON"):
        encoders.load(folder)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds an adapter"):
        encoders.load(folder)
    for wrong in (0, -1, True, 2.0):
        with pytest.raises(ValueError, match="num_classes must be a whole number"):
            encoders.load(folder, num_classes=wrong)


def test_saving_writes_all_or_nothing(folder, tmp_path_factory):
    (folder / "vocab.txt").write_text("a")
    encoder, target = encoders.load(folder)[0], tmp_path_factory.mktemp("target")
    for source in (target / "absent", "owner/absent", folder / "vocab.txt"):
        with pytest.raises(ValueError, match="source must be the folder of a checkpoint"):
            encoders.save(encoder, target, source=source)
    with pytest.raises(ValueError, match="is a file; name a folder"):
        encoders.save(encoder, folder / "vocab.txt")
    assert list(target.iterdir()) == []
    encoders.save(encoder, folder, source=folder)  # into itself
    np.testing.assert_array_equal(encoders.load(folder)[0](IDS), encoder(IDS))
    before = (folder / "model.safetensors").read_bytes()
    (target / "model.safetensors").symlink_to(folder / "model.safetensors")
    encoders.save(encoders.load(folder, num_classes=2)[0], target, source=folder)
    assert (folder / "model.safetensors").read_bytes() == before
    assert sorted(path.name for path in target.iterdir()) == ["config.json", "model.safetensors", "vocab.txt"]


@pytest.mark.long
def test_inputs_of_another_kind_are_refused(folder):
    """Numbers of words outside the vocabulary, in 64 bits too, are nan; scores added to the attention are no mask."""
    encoder, _ = encoders.load(folder)
    for wrong in (20, -1, 2**32 + 3):
        ids = np.array([[3, wrong]])
        assert np.isnan(np.asarray(encoder.hidden_states(ids)["embed"])[0, 1]).all()
        assert np.isfinite(np.asarray(encoder.hidden_states(ids)["embed"])[0, 0]).all()
    for mask in (np.where([[True, True, True, False]] * 2, 0.0, -1e9), np.ones((2, 1), bool), np.ones(4, bool)):
        with pytest.raises(ValueError, match=r"the mask must be boolean of shape \(2, 4\)"):
            encoder(IDS, mask)
    np.testing.assert_array_equal(encoder(IDS, np.array([[1, 1, 1, 0]] * 2)), encoder(IDS, np.arange(4) < [[3]] * 2))
    with pytest.raises(ValueError, match="dtype must be a float"):
        encoders.load(folder, dtype=jnp.int8)
    net = {"stages": [[1, 3, 1, 1, 4]], "stem_width": 4, "head_width": 8}
    for config in (
        SMALL | {"model_type": "vit", "image_size": 8, "patch_size": 4},
        net | {"model_type": "efficientnet-lite0"},
    ):
        embed = encoders.initialise(config, rngs=nnx.Rngs(0)).embed
        with pytest.raises(ValueError, match=r"the images must be floats.* got uint8"):
            embed(np.zeros((1, 8, 8, 3), np.uint8))
        with pytest.raises(ValueError, match="takes no mask"):
            embed(np.zeros((1, 8, 8, 3), np.float32), np.ones((1, 8), bool))


def test_a_failed_save_leaves_the_folder_as_it_was(folder, tmp_path_factory, monkeypatch):
    (folder / "vocab.txt").write_text("a")
    encoder, target = encoders.load(folder, num_classes=7)[0], tmp_path_factory.mktemp("target")

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for place in (folder, target / "new"):
        with pytest.raises(OSError, match="no space left"):
            encoders.save(encoder, place, source=folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert list(target.iterdir()) == []


# Against torch

SPEECH = SMALL | {"conv_dim": (8, 8), "conv_kernel": (10, 3), "conv_stride": (5, 2), "num_conv_pos_embeddings": 4}
SPEECH |= {"num_conv_pos_embedding_groups": 2, "num_feat_extract_layers": 2}
# What changes no state of an encoder in evaluation: dropout, losses, masking, decoding, other heads and outputs.
HARMLESS = """
transformers_version architectures output_hidden_states return_dict dtype chunk_size_feed_forward is_encoder_decoder id2label
label2id problem_type _name_or_path model_type output_attentions tie_word_embeddings use_cache bos_token_id eos_token_id
initializer_range init_std hidden_dropout_prob attention_probs_dropout_prob classifier_dropout dropout attention_dropout
qa_dropout seq_classif_dropout hidden_dropout activation_dropout feat_proj_dropout feat_quantizer_dropout final_dropout
layerdrop encoder_layerdrop decoder_layerdrop drop_path_rate sinusoidal_pos_embds entity_vocab_size entity_emb_size
use_entity_aware_attention embedding_size encoder_stride pooler_output_size use_mask_token pool_scales use_auxiliary_head
auxiliary_loss_weight auxiliary_channels auxiliary_num_convs auxiliary_concat_input semantic_loss_ignore_index add_fpn
reshape_hidden_states stage_names out_features out_indices layerscale_value apply_layernorm apply_spec_augment mask_time_prob
mask_time_length mask_time_min_masks mask_feature_prob mask_feature_length mask_feature_min_masks num_codevectors_per_group
num_codevector_groups contrastive_logits_temperature num_negatives codevector_dim proj_codevector_dim diversity_loss_weight
ctc_loss_reduction ctc_zero_infinity tdnn_dim tdnn_kernel tdnn_dilation xvector_output_dim adapter_kernel_size adapter_stride
num_adapter_layers output_hidden_size num_feat_extract_layers num_ctc_classes decoder_layers decoder_attention_heads
decoder_ffn_dim decoder_start_token_id scale_embedding max_target_positions suppress_tokens begin_suppress_tokens
median_filter_width attn_pdrop embd_pdrop resid_pdrop reorder_and_upcast_attn summary_activation summary_first_dropout
summary_proj_to_labels summary_type summary_use_proj pretraining_tp initializer_cutoff_factor embedding_dropout mlp_dropout
decoder_bias deterministic_flash_attn sparse_prediction sparse_pred_ignore_index pos_embed_shift pos_embed_jitter
pos_embed_rescale _out_features _out_indices initializer_factor cls_token_id sep_token_id
""".split()  # noqa: SIM905
READ = """
q_groups k_groups v_groups post_attention_groups intermediate_groups output_groups hidden_act activation qkv_bias
num_channels pooler_act use_absolute_position_embeddings use_relative_position_bias use_shared_relative_position_bias
layer_scale_init_value use_mean_pooling use_swiglu_ffn use_weighted_layer_sum pad_token_id vocab_size
activation_function n_inner scale_attn_weights scale_attn_by_inverse_layer_idx attention_bias mlp_bias use_parallel_residual
rope_parameters head_dim num_key_value_heads layer_types max_window_layers sliding_window use_sliding_window
hidden_activation
use_bidirectional_attention _sliding_window_pattern attn_logit_softcapping final_logit_softcapping
norm_bias classifier_bias classifier_activation classifier_pooling query_bias key_bias value_bias proj_bias use_gated_mlp
num_register_tokens projection_dim projection_size vision_use_head
""".split()  # noqa: SIM905


@pytest.mark.parametrize(
    "kind", [kind for kind in encoders.families() if kind not in ("efficientnet-lite0", "resnet1d")]
)
def test_every_setting_of_a_family_is_read_refused_or_harmless(kind):
    transformers = pytest.importorskip("transformers")
    from jaxconvex.encoders.loading import _family

    theirs = set(transformers.AutoConfig.for_model(kind).to_dict())
    assert theirs - set(_family(kind).config) - set(PLAIN) - set(DEPTHS) - set(READ) - set(HARMLESS) == set()


def test_the_blocks_of_squeezebert_have_an_epsilon_of_their_own(tmp_path):
    transformers = pytest.importorskip("transformers")
    groups = dict.fromkeys(["q_groups", "k_groups", "v_groups", "intermediate_groups", "output_groups"], 2)
    config = transformers.SqueezeBertConfig(
        vocab_size=20, max_position_embeddings=9, embedding_size=8, layer_norm_eps=0.1, **SMALL, **groups
    )
    model = parity.randomise(transformers.SqueezeBertModel(config))
    encoder, _ = encoders.load(parity.saved(model, tmp_path))
    import torch

    parity.assert_close(last_state(encoder, IDS), model(torch.tensor(IDS)).last_hidden_state)


@pytest.mark.parametrize("name", ["Bert", "Roberta", "DistilBert", "SqueezeBert", "LukeEntityPair"])
def test_classifiers_of_tokens_load_without_a_head(name, tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = SMALL | {"vocab_size": 20, "max_position_embeddings": 9, "num_labels": 4, "pad_token_id": 0}
    if name == "DistilBert":
        sizes |= {"dim": 8, "n_layers": 2, "n_heads": 2, "hidden_dim": 12}
    if name == "SqueezeBert":
        sizes |= dict.fromkeys(["q_groups", "k_groups", "v_groups", "intermediate_groups", "output_groups"], 2)
        sizes |= {"embedding_size": 8}
    family = name.removesuffix("EntityPair")
    task = "EntityPairClassification" if family == "Luke" else "TokenClassification"
    if family == "Luke":
        sizes |= {"entity_vocab_size": 5, "entity_emb_size": 4}
    config = getattr(transformers, f"{family}Config")(**sizes)
    model = parity.randomise(getattr(transformers, f"{family}For{task}")(config))
    encoder, _ = encoders.load(parity.saved(model, tmp_path))
    import torch

    ids = np.array([[3, 8, 9, 12]])
    base = getattr(model, model.base_model_prefix)
    parity.assert_close(last_state(encoder, ids), base(torch.tensor(ids)).last_hidden_state)
    assert encoder.head.classifier is None


def test_truncated_backbones_load_in_torch(tmp_path):
    transformers = pytest.importorskip("transformers")
    import torch

    sizes = {"image_size": 8, "patch_size": 4, "hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = transformers.Dinov2Config(mlp_ratio=2, out_features=["stage3"], **sizes)
    model = parity.randomise(transformers.Dinov2Model(config))
    encoder, _ = encoders.load(parity.saved(model, tmp_path / "whole"))
    edit(tmp_path / "whole", patch_size=[4, 4], image_size=[8, 8])
    encoder, _ = encoders.load(tmp_path / "whole")
    encoders.save(encoder.truncate(2), tmp_path / "short")
    again, _ = encoders.load(tmp_path / "short")
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    edit(tmp_path / "short", patch_size=4, image_size=8)  # torch's DINOv2 takes numbers only
    short = transformers.AutoModel.from_pretrained(tmp_path / "short").eval()
    theirs = short(torch.tensor(images.transpose(0, 3, 1, 2))).last_hidden_state
    parity.assert_close(again.head.normalised(last_state(again, images)), theirs)
    edit(tmp_path / "whole", patch_size=[4, 2])
    with pytest.raises(ValueError, match=r"patch_size must be square; \[4, 2\]"):
        encoders.load(tmp_path / "whole")


def test_old_names_and_wrong_counts_of_speech(tmp_path):
    transformers = pytest.importorskip("transformers")
    import torch

    model = parity.randomise(transformers.Wav2Vec2ForCTC(transformers.Wav2Vec2Config(vocab_size=9, **SPEECH)))
    parity.saved(model, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["wav2vec2.mask_time_emb_vector"] = weights.pop("wav2vec2.masked_spec_embed")
    save_file(weights, tmp_path / "model.safetensors")
    waves = np.random.default_rng(0).normal(size=(2, 300)).astype(np.float32)
    encoder, _ = encoders.load(tmp_path)
    parity.assert_close(last_state(encoder, waves), model.wav2vec2(torch.tensor(waves)).last_hidden_state)
    for changes, message in [
        ({"conv_kernel": [10, 3, 3]}, r"one entry a convolution; they have \[2, 3, 2\]"),
        ({"conv_kernel": [10, 0]}, "conv_kernel must be a list of whole numbers above 0"),
    ]:
        edit(tmp_path, **changes)
        with pytest.raises(ValueError, match=message):
            encoders.load(tmp_path)
