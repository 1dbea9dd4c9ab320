from models.data.characters import Characters
from models.data.digits import Digits
from models.data.loaders import Loaders
from models.data.tables import Table

__all__ = ["Characters", "Digits", "Loaders", "Table"]
