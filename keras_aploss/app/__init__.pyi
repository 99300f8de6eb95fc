from .guard import LOCAL_HOSTS as LOCAL_HOSTS
from .web import missing_extra as missing_extra, search_app as search_app
