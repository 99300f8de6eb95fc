from .indices import ClassBalancedIndices as ClassBalancedIndices
from .sampler import ClassBalancedSampler as ClassBalancedSampler
