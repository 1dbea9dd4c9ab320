import dataclasses
from pathlib import Path

from core.catalog import Catalog
from tests.app.parts import CATALOG, CONFIG, Api, running_api
from tests.waiting import wait_until


def test_the_catalogue_is_listed_by_path_and_kind(api: Api) -> None:
    api.worker()
    page = api.http.get("/v1/catalog").json()
    assert [entry["class_path"] for entry in page["data"]] == sorted(entry.class_path for entry in CATALOG.entries)
    models = api.http.get("/v1/catalog", params={"kind": "model"}).json()["data"]
    assert models == [
        {
            "class_path": "models.vision.ImageClassifier",
            "name": "ImageClassifier",
            "kind": "model",
            "summary": "A small convolutional network.",
            "aliases": [],
            "builtin": False,
        }
    ]
    first = api.http.get("/v1/catalog", params={"limit": 2}).json()
    rest = api.http.get("/v1/catalog", params={"cursor": first["next_cursor"]}).json()
    assert first["data"] + rest["data"] == page["data"]


def test_an_unknown_kind_is_refused(any_api: Api) -> None:
    any_api.worker()
    answer = any_api.http.get("/v1/catalog", params={"kind": "modle"})
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_parameter")


def test_one_class_tells_its_schema_docstring_and_defaults(api: Api) -> None:
    api.worker()
    for name in ("models.vision.ImageClassifier", "ImageClassifier"):
        found = api.http.get(f"/v1/catalog/{name}").json()
        assert found["doc"].endswith("It classifies images.")
        assert found["schema"] == CATALOG.entries[0].schema
        assert found["defaults"] == {"lr": 0.001, "width": 32}
    missing = api.http.get("/v1/catalog/models.vision.ImageClasifier")
    assert (missing.status_code, missing.json()["code"]) == (404, "class_not_found")
    assert "models.vision.ImageClassifier" in missing.json()["detail"]


def test_an_unchanged_catalogue_is_not_sent_again(api: Api) -> None:
    api.worker()
    for path in ("/v1/catalog", "/v1/catalog/ImageClassifier"):
        tag = api.http.get(path).headers["ETag"]
        assert api.http.get(path, headers={"If-None-Match": tag}).status_code == 304


def test_what_any_worker_can_run_is_in_the_catalogue(any_api: Api) -> None:
    model, *others = CATALOG.entries
    another = dataclasses.replace(model, class_path="models.other.Net", bases=("models.other.Net", *model.bases[1:]))
    any_api.worker(CATALOG, name="one")
    any_api.worker(Catalog(entries=(another, *others)), name="two")

    def models() -> set[str]:
        rows = any_api.http.get("/v1/catalog", params={"kind": "model"}).json()["data"]
        return {row["class_path"] for row in rows}

    wait_until(lambda: models() == {model.class_path, another.class_path}, what="both are there")


def test_nothing_can_be_submitted_before_a_worker_has_announced_itself(home: Path) -> None:
    with running_api(home, f"sqlite:///{home / 'l.db'}") as api:
        for method, path in (("POST", "/v1/jobs"), ("POST", "/v1/jobs:validate"), ("GET", "/v1/catalog")):
            answer = api.http.request(method, path, json={"config": CONFIG})
            assert (answer.status_code, answer.json()["code"]) == (503, "no_catalog")
            assert int(answer.headers["Retry-After"]) > 0
        api.worker()
        api.submit()
