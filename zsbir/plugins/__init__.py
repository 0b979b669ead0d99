"""Components that zsbir brings along as plugins: found by their entry points, as other people's are."""
