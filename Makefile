# Two commands are all: `make demo` and `make test`. Both set up .venv first.
# macOS and Linux; on Windows use the two pip lines of the README.
BIN := .venv/bin

.PHONY: demo test setup lint style types walls docstrings check-wheel unit bench soak screenshots constraints audit test-lowest test-newest test-pyside clean

demo: setup
	@if [ -n "$(HEADLESS)" ] || { [ "$$(uname)" = Linux ] && [ -z "$$DISPLAY$$WAYLAND_DISPLAY" ]; }; then \
		$(BIN)/napari-btn demo --headless --out demo; \
	else \
		$(BIN)/napari-btn demo; \
	fi

test: lint unit check-wheel

# Does what is missing, and nothing when nothing is.
setup:
	@PYTHON="$(PYTHON)" sh tools/setup.sh

# Style, types, the walls between rooms, docstrings: seconds. `make -k lint` shows all that is wrong at once.
lint: style types walls docstrings

style: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

walls: setup
	$(BIN)/lint-imports

docstrings: setup
	find src -name '*.py' -exec $(BIN)/numpydoc lint {} +

# The whole suite, on as many cores as there are up to four: each worker of pytest-xdist has its own virtual
# screen and its own pool of processes. One test alone, or a debugger: `.venv/bin/python -m pytest tests/...`.
unit: setup
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

# A wheel built from the sdist, whose manifest napari finds.
check-wheel: setup
	$(BIN)/python tools/check_wheel.py

bench: setup
	$(BIN)/python -m benchmarks

# Damaged files, killed processes and cycles: the table of docs/reliability.md. Hours at its full size;
# `make soak SOAK="--cases 1000 --faults 1 --cycles 20 --windows 5"` takes minutes.
soak: setup
	$(BIN)/python -m benchmarks.soak $(SOAK)

# A part of the tests in environments of their own: with the lowest versions that pyproject.toml permits, with the
# newest ones, and with PySide6 instead of PyQt6. Each downloads packages; needs a network.
PART := tests/io/test_bundle.py tests/io/test_images.py tests/core/test_settings.py tests/core/inference \
	tests/widgets/test_viewer.py
INSTALL := $(BIN)/uv pip install --quiet --only-binary :all: --no-binary napari-btn
test-lowest: setup
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv-lowest
	$(INSTALL) --python .venv-lowest --resolution lowest-direct -e '.[all,test]'
	.venv-lowest/bin/python -m pytest $(PART)

test-newest: setup
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv-newest
	$(INSTALL) --python .venv-newest -e '.[all,test]'
	.venv-newest/bin/python -m pytest $(PART)

# PySide6 6.12.0 loses a reference to None in every call that returns nothing, which ends Python 3.11.
test-pyside: setup
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv-pyside
	$(INSTALL) --python .venv-pyside -c constraints.txt -e '.[all,test]' 'pyside6<6.12'
	QT_API=pyside6 .venv-pyside/bin/python -m pytest -o qt_api=pyside6 tests/widgets

screenshots: setup
	$(BIN)/python docs/screenshots.py

# Pins what CI installs, with hashes: from pyproject.toml and the index. `make constraints LOCK=--upgrade` takes
# the newest versions; needs a network.
constraints: setup
	$(BIN)/python tools/lock.py $(LOCK)

# Known vulnerabilities of what is pinned, and licences of what is installed: run it weekly; needs a network.
# Of the packages here, PyQt6 alone is under the GPL (and Qt under the LGPL): an extra that users choose.
LICENCES := MIT;BSD;Apache;ISC;PSF;Python Software Foundation;MPL;Mozilla
audit: setup
	$(BIN)/uv tool run pip-licenses --python $(BIN)/python --from mixed --summary --partial-match \
		--allow-only "$(LICENCES)" --ignore-packages napari-btn pyqt6 pyqt6-qt6
	$(BIN)/uv tool run pip-audit --strict --disable-pip --require-hashes \
		-r tools/locked.txt -r tools/locked-cuda.txt

clean:
	rm -rf .venv .venv-* build dist demo
