from models.data.digits import Digits
from models.data.tables import Table

__all__ = ["Digits", "Table"]
