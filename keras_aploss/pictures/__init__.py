"""Pictures of rankings and charts of runs, drawn with Pillow alone."""

from keras_aploss.pictures.charts import draw_curves, draw_histogram
from keras_aploss.pictures.rankings import (
    Ranking,
    draw_grid,
    draw_rankings,
    draw_sprite,
    fit_image,
)
