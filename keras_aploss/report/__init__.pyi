from .evaluation_report import (
    pixel_embeddings as pixel_embeddings,
    write_evaluation as write_evaluation,
)
from .example_rankings import (
    choose_queries as choose_queries,
    class_name as class_name,
    rank_queries as rank_queries,
    spread as spread,
)
from .page import describe_classes as describe_classes
from .rankings import (
    Ranking as Ranking,
    draw_grid as draw_grid,
    draw_rankings as draw_rankings,
    draw_sprite as draw_sprite,
    fit_image as fit_image,
)
from .similarities import similarity_histogram as similarity_histogram
