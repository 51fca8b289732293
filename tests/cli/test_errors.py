"""Whatever is wrong: one line, a stable code, exit code 2, no traceback."""

import json
import pickle
import re

import pytest

LINE = re.compile(r"SP-E\d{3} .*found .+; expected .+; do: .+\n")

COMMAND_LINES = {
    "unknown command": ("trian x.csv", "SP-E250", "did you mean 'train', 'transfer'?"),
    "unknown subcommand": ("recipe chek x.yaml", "SP-E250", "did you mean 'check'"),
    "unknown option": ("train train.csv --epoch 3", "SP-E251", "did you mean --epochs?"),
    "missing argument": ("predict", "SP-E252", "softprompt predict --help"),
    "missing subcommand": ("recipe", "SP-E252", "softprompt recipe --help"),
    "no number": ("train train.csv --model llama --epochs many", "SP-E252", "--epochs"),
    "unknown key": ("train train.csv --model llama --set optim.lrr=1", "SP-E203", "did you mean 'optim.lr'?"),
    "key without section": ("train train.csv --model llama --set lr=1", "SP-E205", "did you mean 'optim.lr'?"),
    "set without value": ("train train.csv --model llama --set optim.lr", "SP-E205", "section.key=value"),
    "NaN": ("train train.csv --model llama --set optim.lr=.nan", "SP-E204", "optim.lr"),
    "wrong type": ("train train.csv --model llama --set train.epochs=few", "SP-E204", "train.epochs"),
    "unknown method": ("train train.csv --model llama --method prefx", "SP-E210", "did you mean 'prefix'?"),
    "unknown method option": ("train train.csv --model llama --set method.options.x=1", "SP-E211", "'x'"),
    "missing data": ("train absent.csv --model llama", "SP-E101", "absent.csv"),
    "missing test data": ("train train.csv --model llama --test absent.csv", "SP-E101", "absent.csv"),
    "missing recipe": ("train absent.yaml", "SP-E201", "absent.yaml"),
    "folder without a model": ("train train.csv --model made", "SP-E401", "config.json"),
    "no run": ("resume absent", "SP-E511", "absent"),
    "run in place": ("train train.csv --model llama --run made", "SP-E510", "softprompt resume made"),
    "missing prompt": ("show absent.safetensors", "SP-E308", "absent.safetensors"),
    "data to check missing": ("data check absent.csv", "SP-E101", "absent.csv"),
    "wrong backbone": ("predict made/prompt.safetensors test.csv --model bert", "SP-E320", "llama"),
    "missing input": ("predict made/prompt.safetensors absent.csv", "SP-E101", "absent.csv"),
    "no answer to write": ("generate made/prompt.safetensors hello", "SP-E254", "softprompt predict"),
    "unknown adapter format": ("export made/prompt.safetensors out --to paft", "SP-E258", "did you mean 'peft'?"),
}


@pytest.mark.usefixtures("prompt")
@pytest.mark.parametrize("line, code, hint", COMMAND_LINES.values(), ids=COMMAND_LINES)
def test_a_command_line_that_cannot_be_followed_is_one_line(sp, line, code, hint):
    answer = sp(*line.split())
    assert (answer.code, answer.out) == (2, "")
    assert LINE.fullmatch(answer.err)
    assert answer.err.startswith(f"{code} ")
    assert hint in answer.err


@pytest.mark.usefixtures("prompt")
@pytest.mark.parametrize("name", sorted(COMMAND_LINES.keys() - {"missing subcommand"}))
def test_with_json_the_error_is_a_document(sp, name):
    line, code, _ = COMMAND_LINES[name]
    answer = sp(*line.split(), "--json")
    assert answer.code == 2
    assert answer.err == ""
    assert answer.json["code"] == code
    assert {"found", "expected", "do", "where", "message"} <= answer.json.keys()


def damaged(data: bytes, how: str) -> bytes:
    middle = len(data) // 2
    return {
        "cut short": data[:middle],
        "one bit flipped": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
        "a pickle": pickle.dumps({"weights": [1.0]}),
        "empty": b"",
    }[how]


@pytest.mark.parametrize("command", ["show", "predict", "evaluate", "generate", "export"])
@pytest.mark.parametrize("how, code", [("cut short", "SP-E30"), ("one bit flipped", "SP-E30"), ("a pickle", "SP-E303")])
def test_a_damaged_or_foreign_prompt_is_refused(sp, workplace, prompt, command, how, code):
    (workplace / "damaged.safetensors").write_bytes(damaged((workplace / prompt).read_bytes(), how))
    answer = sp(command, "damaged.safetensors", *([] if command in ("show", "generate") else ["test.csv"]))
    assert (answer.code, answer.out) == (2, "")
    assert LINE.fullmatch(answer.err)
    assert answer.err.startswith(code)


def test_a_recipe_with_nan_is_refused_by_every_command_that_reads_it(sp, workplace):
    (workplace / "nan.yaml").write_text("backbone: {name: llama}\ndata: {train: train.csv}\noptim: {lr: .nan}\n")
    for line in (["recipe", "check", "nan.yaml"], ["recipe", "show", "nan.yaml"], ["train", "nan.yaml"]):
        answer = sp(*line)
        assert (answer.code, answer.out) == (2, "")
        assert answer.err.startswith("SP-E204 nan.yaml: found optim.lr = nan")


def test_an_unknown_exception_is_one_line_too(sp, monkeypatch):
    def broken(path):
        raise ZeroDivisionError("a defect\nof ours")

    monkeypatch.setattr("softprompt.recipe.load_recipe", broken)
    answer = sp("recipe", "show", "any.yaml")
    assert answer.code == 2
    assert answer.err.startswith("SP-E900 found an internal error ZeroDivisionError: a defect of ours; ")
    assert "--debug" in answer.err
    assert "Traceback" not in answer.err


@pytest.mark.parametrize("place", [0, 1, 3])
def test_debug_shows_the_traceback_wherever_it_stands(sp, place):
    line = ["recipe", "show", "absent.yaml"]
    answer = sp(*line[:place], "--debug", *line[place:])
    assert answer.code == 2
    assert "Traceback" in answer.err
    assert "SP-E201" in answer.err


def test_ctrl_c_is_130(sp, monkeypatch):
    def interrupted(path):
        raise KeyboardInterrupt

    monkeypatch.setattr("softprompt.recipe.load_recipe", interrupted)
    assert sp("recipe", "show", "any.yaml").code == 130


def test_escape_sequences_in_a_message_do_not_reach_the_terminal(sp):
    answer = sp("show", "\x1b[2Jabsent")
    assert "\x1b" not in answer.err
    assert "\\x1b[2Jabsent" in answer.err


def test_an_error_document_is_valid_json_for_any_text(sp):
    assert json.loads(sp("show", 'a"b\\c\x07', "--json").out)["where"] == 'a"b\\c\x07'
