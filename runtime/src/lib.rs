//! Pod sandboxes, the shim and images. Knows no API objects.
