from .charts import draw_curves as draw_curves, draw_histogram as draw_histogram
from .evaluation_report import (
    pixel_embeddings as pixel_embeddings,
    write_curves as write_curves,
    write_evaluation as write_evaluation,
)
from .panels import (
    choose_queries as choose_queries,
    class_name as class_name,
    rank_queries as rank_queries,
    similarity_histogram as similarity_histogram,
    spread as spread,
)
from .rankings import (
    Ranking as Ranking,
    draw_grid as draw_grid,
    draw_rankings as draw_rankings,
    draw_sprite as draw_sprite,
    fit_image as fit_image,
)
