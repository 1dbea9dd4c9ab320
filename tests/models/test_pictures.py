import torch

from models.pictures import grid


def test_a_grid_has_the_images_in_order_with_grey_lines_between_and_in_place_of_missing_ones() -> None:
    images = torch.tensor([0.0, 1.0, 2.0])[:, None, None, None].expand(3, 1, 1, 1)

    picture = grid(images, columns=2, zoom=1)

    assert picture.tolist() == [[[0.0, 0.5, 1.0], [0.5, 0.5, 0.5], [1.0, 0.5, 0.5]]]


def test_zoom_makes_a_square_of_each_pixel() -> None:
    picture = grid(torch.eye(2).expand(1, 3, 2, 2), columns=1, zoom=3)

    assert picture.shape == (3, 6, 6)
    assert torch.equal(picture[2, ::3, ::3], torch.eye(2))
    assert picture[0, :3, :3].min() == 1
