# needs: pytest
from driver import *

# As the page says; the files are found by pytest itself.
same(subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]).returncode, 0)
