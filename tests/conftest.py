"""Which tests are quick, and what pytest adds to the report of a failed test of the paper's architecture."""
import pytest
import torch

# The tensors of the tests are small: a second thread brings nothing there, and where other programs are busy the
# threads of an operation wait for each other many times as long as it takes.
torch.set_num_threads(1)

# `python -m pytest -m quick`: of these files all tests, but for those whose names say that they train, draw or judge
# for longer, and of test_scripts.py not the three scripts that take most of its time.
QUICK_FILES = """
    assistant bert captioner classifier clip cyclegan diffusion finetune gan gpt house image_sets images lstm
    metrics_images midi music primitives run scripts text_to_image translator tunes vae
""".split()
LONGER = """
    attribute bad_ baseline by_heart chat ctrl_c draws_the_class end_to_end evaluat every_head exhaustive facts
    full_disk goes_on_to_nothing inpaint judge labels learns many map not_a_number own_ plain_loops of_another
    of_one_step overfits recover reconstr report resum run_by_their_path sample sampling scores steps_equal strange
    such_device three_steps training_takes two_processes walk writes_the_same [train_diffusion
    [mini.text_to_image [mini.assistant
""".split()

PAPER = """This test states the architecture, or the numbers, of the paper. If you changed them on purpose, it has to
fail: change it with them, or leave such tests out by `python -m pytest -m "not paper"`. All others must go on passing."""


@pytest.fixture
def float64(monkeypatch):
    """Everything in float64: Adam makes much of little."""
    torch.set_default_dtype(torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    yield
    torch.set_default_dtype(torch.float32)


def pytest_collection_modifyitems(items):
    for item in items:
        name = item.path.stem.removeprefix("test_")
        if name in QUICK_FILES and not any(word in item.name for word in LONGER):
            item.add_marker(pytest.mark.quick)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed and item.get_closest_marker("paper"):
        report.sections.append(("expected, if you changed the model", PAPER))
    return report
