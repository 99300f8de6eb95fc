"""Names of the public data sets, and the addresses of their files.

The module imports nothing: the command line lists the names in its help.
"""

_OXFORD = "https://www.robots.ox.ac.uk/~vgg/data/oxbuildings/"
_PARIS = "https://www.robots.ox.ac.uk/~vgg/data/parisbuildings/"
_REVISITED = "http://cmp.felk.cvut.cz/revisitop/data/datasets"
DISTRACTORS_URL = "http://ptak.felk.cvut.cz/revisitop/revisitop1m/"
GLDV2_URL = "https://github.com/cvdfoundation/google-landmark"

TRUTH_URLS = {
    "oxford5k": _OXFORD,
    "paris6k": _PARIS,
    "roxford5k": f"{_REVISITED}/roxford5k/gnd_roxford5k.pkl",
    "rparis6k": f"{_REVISITED}/rparis6k/gnd_rparis6k.pkl",
}
IMAGE_URLS = {
    "oxford5k": _OXFORD,
    "paris6k": _PARIS,
    "roxford5k": _OXFORD,
    "rparis6k": _PARIS,
}
CLASS_URLS = {
    "sop": "ftp://cs.stanford.edu/cs/cvgl/Stanford_Online_Products.zip",
    "cub200": "http://www.vision.caltech.edu/datasets/cub_200_2011/",
    "inaturalist2018": "https://github.com/visipedia/inat_comp (images) and "
    "https://github.com/Andrew-Brown1/Smooth_AP (lists)",
}
BENCHMARK_URLS = {**IMAGE_URLS, "gldv2": GLDV2_URL, **CLASS_URLS}
BENCHMARKS = tuple(BENCHMARK_URLS)

TRAINING_LISTS = {
    "landmarks_clean": "https://europe.naverlabs.com/deep-image-retrieval-public-data/",
    "gldv2": GLDV2_URL,
    "gldv2_clean": GLDV2_URL,
}
