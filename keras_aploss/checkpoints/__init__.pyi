from .ap_gem import load_ap_gem as load_ap_gem
