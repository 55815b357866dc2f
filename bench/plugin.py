"""What a plugin imports: the contracts under one name. :mod:`bench.contracts` explains them.

Every name here stays; what is not here is the harness's own.
"""

from bench.constraints import Note as Note
from bench.constraints import OneOf as OneOf
from bench.contracts.access import Access as Access
from bench.contracts.attack import EditingAttack as EditingAttack
from bench.contracts.attack import TrainingAttack as TrainingAttack
from bench.contracts.card import Card as Card
from bench.contracts.card import Need as Need
from bench.contracts.card import Paper as Paper
from bench.contracts.card import TestbedKind as TestbedKind
from bench.contracts.card import Tuning as Tuning
from bench.contracts.data import Batch as Batch
from bench.contracts.data import Condition as Condition
from bench.contracts.data import PredictNoise as PredictNoise
from bench.contracts.data import Query as Query
from bench.contracts.data import Recovered as Recovered
from bench.contracts.data import Shape as Shape
from bench.contracts.data import TrainingSet as TrainingSet
from bench.contracts.data import TrainingStep as TrainingStep
from bench.contracts.defense import ClassifierDefense as ClassifierDefense
from bench.contracts.defense import DataDefense as DataDefense
from bench.contracts.defense import Defense as Defense
from bench.contracts.defense import Inversion as Inversion
from bench.contracts.defense import ModelDefense as ModelDefense
from bench.contracts.defense import SamplerDefense as SamplerDefense
from bench.contracts.detector import Detector as Detector
from bench.contracts.detector import ModelDetector as ModelDetector
from bench.contracts.detector import NoiseDetector as NoiseDetector
from bench.contracts.detector import PromptDetector as PromptDetector
from bench.contracts.detector import SampleDetector as SampleDetector
from bench.contracts.goals import Call as Call
from bench.contracts.goals import DrawConcept as DrawConcept
from bench.contracts.goals import DrawFromSet as DrawFromSet
from bench.contracts.goals import DrawImage as DrawImage
from bench.contracts.goals import DrawStyle as DrawStyle
from bench.contracts.goals import Goal as Goal
from bench.contracts.goals import ReachClass as ReachClass
from bench.contracts.goals import Trigger as Trigger
from bench.contracts.plugin import Plugin as Plugin
from bench.contracts.plugin import refusals as refusals
from bench.contracts.plugin import require as require

#: What these two were called before: every attack was trained, and a detector's access was another.
Attack = TrainingAttack
Evidence = Access
