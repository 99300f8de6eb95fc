"""Limits of image files cost nothing to import."""

import subprocess
import sys


def test_limits_and_reasons_import_no_framework():
    code = (
        "import sys\n"
        "from keras_aploss.images import MAX_PIXELS, SkippedImage, file_reason\n"
        "heavy = ('keras', 'tensorflow', 'numpy', 'PIL')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    assert result.stdout.strip() == "[]"
