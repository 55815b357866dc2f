"""The judge of triggers apart from how well it is trained: what it must never say, whatever its network says."""

import torch

from bench.artefacts.judges import TriggerJudge
from bench.classification.classifier import Classifier


def test_a_picture_of_one_colour_carries_no_trigger() -> None:
    """A collapsed generator must not count as a success of the attack because a network takes flat colour for the trigger."""
    head = torch.nn.Linear(3, 2)
    torch.nn.init.zeros_(head.weight)
    head.bias.data = torch.tensor([0.0, 9.0])
    judge = TriggerJudge(network=Classifier(torch.nn.Identity(), head), threshold=1.0, robust_threshold=1.0, errors={})
    flat = torch.full((2, 3, 8, 8), 90, dtype=torch.uint8)
    picture = flat.clone()
    picture[:, :, 4:] = 200
    assert judge.stamped(picture).all() and judge.robustly_stamped(picture).all()
    assert not judge.stamped(flat).any() and not judge.robustly_stamped(flat).any()
