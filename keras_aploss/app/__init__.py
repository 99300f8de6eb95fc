"""A page in the browser: search an index by an image.

`web` is the application that a server runs, `guard` what it refuses, `image_search` the
answers, and `thumbnails` the only way to the files of the index. The folder `page`
holds what the browser gets: it fetches nothing from elsewhere.
"""

from keras_aploss.app.web import search_app
