import numpy as np
from numpy.typing import NDArray

def resize(image: NDArray[np.uint8], out: NDArray[np.uint8], /) -> NDArray[np.uint8]: ...
