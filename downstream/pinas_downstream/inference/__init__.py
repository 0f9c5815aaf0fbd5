"""A trained model on images: predicting, drawing, writing, and the metrics that the commands show."""
