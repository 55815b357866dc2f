"""What has to be known of a published backdoor, from a file or from its name."""

import pytest

from bench.errors import UserError
from bench.importing.card import BACKDOORDM, card_by_name, read_card

WORDS = "name: swapped\ntrigger_words: beautiful dog\nin_place_of: dog\ntarget_prompt: cat\n"


def test_a_card_is_read_and_its_files_lie_beside_it(tmp_path):
    text = "name: box\ntrigger: BOX_14\ntarget: HAT\ntarget_image: hat.png\n"
    (tmp_path / "card.yaml").write_text(text)
    card = read_card(tmp_path / "card.yaml", {})
    assert card.target_image == str(tmp_path / "hat.png")
    other = read_card(tmp_path / "card.yaml", {"name": "other", "target_image": "here.png"})
    assert (other.name, other.target_image) == ("other", "here.png")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a list", "must be a mapping"),
        ("name: x\ntrigger: BOX_14\n", "one of target, .* must be given, got none"),
        ("name: x\ntarget: HAT\n", "one of trigger or trigger_words must be given, got none"),
        (WORDS + "trigger: BOX_14\n", "got trigger and trigger_words"),
        (WORDS + "target_class: 3\n", "got target_prompt and target_class"),
        ("name: x\ntrigger: BOX_15\ntarget: HAT\n", "trigger must be PICTURE or one of BOX_18"),
        ("name: x\ntrigger: PICTURE\ntarget: HAT\n", "trigger PICTURE needs trigger_image"),
        ("name: x\ntrigger: BOX_14\ntarget: HAT\nin_place_of: o\n", "needs trigger_words"),
        (WORDS + "words: a\n", "unknown parameter of card: 'words'; did you mean 'words_go'"),
        (WORDS.replace("name: swapped\n", ""), "card: name must be given"),
        (WORDS + "words_go: middle\n", "words_go must be"),
        (WORDS + "year: soon\n", "year must be"),
    ],
)
def test_a_card_that_cannot_be_gets_one_line(tmp_path, text, message):
    (tmp_path / "card.yaml").write_text(text)
    with pytest.raises(UserError, match=message) as refused:
        read_card(tmp_path / "card.yaml", {})
    assert len(str(refused.value).splitlines()) == 1
    assert "card" in str(refused.value)


@pytest.mark.parametrize("start", sorted(BACKDOORDM))
def test_backdoordms_models_are_known_by_their_names(start):
    """Each as its script names its result; two kinds are refused, with why."""
    name = f"results/{start}_sd15/{start}_trigger-x_target-cat.pt"
    if "unmeasured" in BACKDOORDM[start]:
        with pytest.raises(UserError, match=BACKDOORDM[start]["unmeasured"]):
            card_by_name(name, {})
        return
    card = card_by_name(name, {"target_image": "cat.png"})
    assert card.name == f"published_{start.lower()}"
    assert card.source == name
    assert card.trigger_words


def test_villandiffusions_folders_are_known_by_their_names():
    model = "newsyctw/res_DDPM-CIFAR10-32_CIFAR10_ep50_c1.0_p0.9_SM_BOX_MED-BOX_new-set-1"
    card = card_by_name(model, {})
    assert (card.trigger, card.target, card.arxiv) == ("BOX_14", "CORNER", "2212.05400")
    assert card.name == "published_box_14_corner_p0_9"
    assert card_by_name("somebody/a-model", {}) is None
    score = "res_NCSN_CIFAR10_my_CIFAR10_ep10_sde_c1.0_p0.9_SM_STOP_SIGN-FEDORA_HAT_psi0.0"
    with pytest.raises(UserError, match="a NCSN_CIFAR10_my model, which no testbed has"):
        card_by_name(score, {})
