"""The API process: one that is ready to serve in about a second, or says what is missing."""

import gc
import signal
import sys

import setproctitle
import structlog
from sqlalchemy.exc import OperationalError

from app.main import create_app
from app.server import server
from core.database import Database, is_current, upgrade, wait_for
from core.log import configure
from core.security import first_start
from core.settings import Settings, settings

log = structlog.get_logger("lightyard.api")


def main() -> None:
    """Serve until SIGTERM or Ctrl-C. Exit status: 0 then, 1 if it cannot start."""
    # uvicorn raises the signal that stopped it once more when it has stopped; it ends here then.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: sys.exit(0))
    setproctitle.setproctitle("lightyard-api")
    config = settings()
    configure(config)
    if not _database_is_ready(config):
        sys.exit(1)
    app = create_app(config)
    gc.freeze()
    gc.enable()
    log.info("api_starts", host=config.host, port=config.port, database=app.state.service.database.engine.name)
    running = server(app, config)
    running.run()
    sys.exit(0 if running.started else 1)


def _database_is_ready(config: Settings) -> bool:
    """Bring an embedded database up to date; of a server's, only look whether somebody has."""
    database = Database.of(config)
    try:
        wait_for(database, config.database_timeout_seconds)
        current = is_current(database)
        if database.is_sqlite:
            if not current:
                upgrade(database)
            first_start(database, config.key_path)
        elif not current:
            log.error(
                "database_not_migrated",
                hint="run `python -m core.database upgrade` with the same LIGHTYARD_DATABASE_URL, then start again",
            )
            return False
    except OperationalError as error:
        log.error("database_unreachable", error=str(error).partition("\n")[0])
        return False
    finally:
        database.close()
    return True
