import pytest

from evaluation.assembly import Models, build_method
from evaluation.engine_pool import EnginePool
from evaluation.study import Backbone, Study


@pytest.fixture
def repe(tmp_path, roomy_chat_model):
    def build(**settings):
        backbone = Backbone("A", f"transformers:{roomy_chat_model}")
        models = Models(EnginePool(), None, None, tmp_path)  # RepE has neither detector nor embedder
        return build_method("repe", backbone, Study((backbone,), **settings), models)

    return build


def test_repe_is_as_the_study_says(repe):
    method = repe(repe_direction="pca", repe_layers=(1,), repe_coefficient=0.25)
    assert (method.direction, [*method.chosen_layers], method.coefficient) == ("pca", [1], 0.25)


def test_repe_takes_the_means_at_the_middle_layers_unless_told(repe):
    method = repe()
    assert (method.direction, [*method.chosen_layers]) == ("mean", [0, 1])
