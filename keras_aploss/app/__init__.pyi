from .server import PageServer as PageServer
from .web import search_app as search_app
