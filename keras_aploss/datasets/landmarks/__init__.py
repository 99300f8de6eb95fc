"""Synthetic landmarks: invented buildings, and photographs of them.

The problem: image retrieval needs many pictures of each of many things, taken from
elsewhere, at another hour, with a tree in front. Such data sets weigh gigabytes and
their licences seldom let a package ship them. Here a building is a few attributes drawn
from a seed, its front is painted once, and each view hangs that front before a random
camera, light, background and passer-by. The attributes are independent: buildings share
colours, roofs or windows with many others, and only the combination tells them apart.

    attributes -> facade (its front) -> view (its photograph) <- scenery

All of it is made of `outlines`.
"""

from keras_aploss.datasets.landmarks.attributes import Landmark, describe_landmark
from keras_aploss.datasets.landmarks.facade import draw_facade
from keras_aploss.datasets.landmarks.view import landmark_views
