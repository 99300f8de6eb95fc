from .card import read_evaluation as read_evaluation
from .checkpoint import (
    RunCheckpoint as RunCheckpoint,
    encoder_of as encoder_of,
    load_model as load_model,
)
from .data import read_evaluation_set as read_evaluation_set
from .devices import check_run_dir_is_shared as check_run_dir_is_shared
from .run import RunReport as RunReport, train_run as train_run
from .settings import RunSettings as RunSettings
from .version import can_warm_up as can_warm_up, export_version as export_version
