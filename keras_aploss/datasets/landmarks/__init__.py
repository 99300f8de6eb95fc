"""Synthetic landmarks: invented buildings, and photographs of them.

The problem: image retrieval needs many pictures of each of many things, from several
sides, at several hours, partly hidden. Such data sets take gigabytes, and few licences
let a package ship them. Here a building is a set of attributes drawn from a seed; its
front is painted once, and each view shows that front with a random camera, light,
background and foreground. The attributes are independent: buildings share colours,
roofs or windows with many others, and only the combination identifies one.

    attributes -> facade (its front) -> view (its photograph) <- scenery

All are painted with the shapes of `outlines`.
"""

from keras_aploss.datasets.landmarks.attributes import Landmark, describe_landmark
from keras_aploss.datasets.landmarks.facade import draw_facade
from keras_aploss.datasets.landmarks.view import landmark_views
