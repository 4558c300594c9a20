from typing import Any

import pytest

from service.settings import Settings, WrongSetting, load_settings, unknown_variables


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"OODGATE_{name.upper()}", raising=False)


def test_what_nobody_sets_has_a_default() -> None:
    settings = load_settings()
    assert (settings.max_queue_delay_ms, settings.keep_alive_seconds, settings.alpha, settings.guarantee) == (0, 75, None, "pac")


def test_the_environment_is_read_and_a_flag_goes_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OODGATE_MAX_BATCH_SIZE", "8")
    monkeypatch.setenv("OODGATE_PORT", "9000")
    settings = load_settings(port="9001")
    assert (settings.max_batch_size, settings.port) == (8, 9001)


def test_lists_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OODGATE_SHADOW_POSTPROCESSORS", "msp, ebo")
    assert load_settings().shadow_postprocessors == ("msp", "ebo")


@pytest.mark.parametrize(
    ("name", "wrong", "allowed"),
    [
        ("port", "x", "valid integer"),
        ("port", "tcp://10.0.0.1:8000", "set enableServiceLinks: false"),
        ("watch", "sometimes", "valid boolean"),
        ("drain_seconds", "-1", "greater than or equal to 0"),
        ("port", "70000", "less than or equal to 65535"),
        ("device", "tpu", "'auto', 'cpu' or 'cuda'"),
        ("alpha", "0", "greater than 0"),
        ("max_batch_size", "0", "greater than or equal to 1"),
        ("guarantee", "hope", "'pac' or 'marginal'"),
        ("log_format", "xml", "'json' or 'console'"),
    ],
)
def test_a_wrong_value_is_one_sentence_with_name_value_and_what_is_allowed(name: str, wrong: str, allowed: str) -> None:
    with pytest.raises(WrongSetting) as refused:
        load_settings(**{name: wrong})
    sentence = str(refused.value)
    assert name in sentence
    assert f"OODGATE_{name.upper()}" in sentence
    assert repr(wrong) in sentence
    assert allowed in sentence
    assert "\n" not in sentence


def test_an_empty_variable_is_none_and_an_empty_path_is_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OODGATE_STATE_DIR", "")
    monkeypatch.setenv("OODGATE_PORT", "")
    assert (load_settings().state_dir, load_settings().port) == (None, 8000)
    for name in ("models_dir", "state_dir", "api_keys_file", "admin_keys_file"):
        with pytest.raises(WrongSetting, match=f"setting {name} .* is '': an empty path"):
            load_settings(**{name: ""})


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"alpha_min": 0.2, "alpha_max": 0.1}, "alpha_min is 0.2, it must be at most alpha_max, 0.1"),
        ({"alpha": 0.6}, "alpha is 0.6, it must be between alpha_min, 0.001, and alpha_max, 0.5"),
        ({"max_body_bytes": 2000, "max_bodies_bytes": 1999}, "max_bodies_bytes is 1999, it must be at least max_body_bytes, 2000"),
        ({"max_images_per_request": 33, "max_queue_size": 32}, "max_images_per_request is 33, it must be at most max_queue_size, 32"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(WrongSetting, match=sentence):
        load_settings(**given)


def test_every_setting_says_how_to_choose_it() -> None:
    assert all(field.description and len(field.description) > 30 for field in Settings.model_fields.values())


def test_a_wrong_key_is_not_repeated() -> None:
    with pytest.raises(WrongSetting) as refused:
        load_settings(api_keys=5)
    assert str(refused.value).startswith("setting api_keys (OODGATE_API_KEYS, --api-keys) is wrong: ")


def test_what_looks_like_a_setting_and_is_none_is_found() -> None:
    made_by_kubernetes = ["OODGATE_SERVICE_HOST", "OODGATE_SERVICE_PORT_HTTP", "OODGATE_PORT", "OODGATE_PORT_8000_TCP_ADDR"]
    assert unknown_variables([*made_by_kubernetes, "OODGATE_ALHPA", "OODGATE_ALPHA", "PATH"]) == ["OODGATE_ALHPA"]


@pytest.mark.parametrize("name", ["api_keys", "admin_keys"])
def test_keys_that_are_given_but_hold_none_are_refused_rather_than_open_to_all(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sentence = rf"setting {name} \(.*\) is wrong: there is no key in it; leave it out where none is needed"
    for value in (",", " ", ""):
        with pytest.raises(WrongSetting, match=sentence):
            load_settings(**{name: value})
    monkeypatch.setenv(f"OODGATE_{name.upper()}", " ")
    with pytest.raises(WrongSetting, match=sentence):
        load_settings()
    monkeypatch.setenv(f"OODGATE_{name.upper()}", "")
    assert getattr(load_settings(), name) == ()
