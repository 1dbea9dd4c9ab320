from queue import Empty

import pytest

from core.settings import Settings
from workers.celery_app import make_app


def test_a_bell_that_was_heard_is_not_put_back_by_a_worker_that_goes(broker_url: str) -> None:
    app = make_app(Settings(broker_url=broker_url))
    with app.connection_for_read() as connection:
        queue = connection.SimpleQueue("bell")
        queue.put({})
        assert queue.get(timeout=10) is not None, "and never acknowledged"
    with app.connection_for_read() as connection, pytest.raises(Empty):
        connection.SimpleQueue("bell").get(block=False)
