"""What several tests need."""
import pytest
import torch

from mini.common import UserError


def close(a, b, tolerance=1e-5):
    """max|a − b| ≤ tolerance · max|b|, for tensors or arrays of the same shape."""
    a, b = torch.as_tensor(a).detach(), torch.as_tensor(b).detach()
    assert a.shape == b.shape
    assert (a - b).abs().max() <= tolerance * b.abs().max(), ((a - b).abs().max(), b.abs().max())


def refused(call, *names) -> str:
    """The message of the UserError that call() raises: one line, with all the names in it."""
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and all(str(name) in message for name in names), message
    return message


def refused_by(main, capsys, *args) -> str:
    """What a script's main prints on stderr as it refuses the command line: one line, exit status 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as leaving:
        main(list(args))
    err = capsys.readouterr().err
    assert leaving.value.code == 2 and err.startswith("error: ") and err.count("\n") == 1, err
    return err
