from .backbone import is_trained_model as is_trained_model
from .checkpoint import RunCheckpoint as RunCheckpoint
from .evaluation_set import (
    EvaluationSet as EvaluationSet,
    read_evaluation_set as read_evaluation_set,
)
from .folder import new_run_folder as new_run_folder
from .run import RunReport as RunReport, train_run as train_run
from .settings import RunSettings as RunSettings
from .shipped import (
    ABOUT as ABOUT,
    SHIPPED as SHIPPED,
    is_shipped as is_shipped,
    shipped_model as shipped_model,
)
from .trained import TrainedModel as TrainedModel, open_model as open_model
from .version import export_version as export_version
