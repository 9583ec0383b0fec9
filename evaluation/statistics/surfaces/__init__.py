"""Response surfaces: values of planned cells predicted from trained ones, with uncertainty."""
