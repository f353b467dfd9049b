// Only what pins the trace viewer of make demo: ../install.py builds it from here.
module viewer

go 1.26

require github.com/CtrlSpice/otel-desktop-viewer v0.4.1
