# needs: pytest
from driver import *

# It finds the files as the page says: conftest.py, shop.py, test_with.py, test_without.py.
same(subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]).returncode, 0)
