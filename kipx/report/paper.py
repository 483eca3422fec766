"""Numbers of the paper's Tables 1 and 2, as printed; test accuracy in percent.

Source: Nguyen, Novak, Xiao, Lee 2021, Tables 1 and 2. In Table 1 KIP with labels learned; ZCA for the data sets in
colour. KIP FC is from Nguyen, Chen, Lee 2021, with augmentation. Label Solve (LS) has no spread there.
"""

KIP_FC, LS, KIP, KIP_AUGMENTED = "KIP FC, aug", "LS ConvNet", "KIP ConvNet", "KIP ConvNet, aug"
COLUMNS = (KIP_FC, LS, KIP, KIP_AUGMENTED)
TITLES = {
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "svhn_cropped": "SVHN",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
}
COLOUR = ("svhn_cropped", "cifar10", "cifar100")  # whitened there; the others are standardized
TABLE1 = {  # (data set, images a class) -> one number for each of COLUMNS
    ("mnist", 1): ("85.5 ± 0.1", "73.4", "97.3 ± 0.1", "96.5 ± 0.1"),
    ("mnist", 10): ("97.2 ± 0.2", "96.4", "99.1 ± 0.1", "99.1 ± 0.1"),
    ("mnist", 50): ("98.4 ± 0.1", "98.3", "99.4 ± 0.1", "99.5 ± 0.1"),
    ("fashion_mnist", 1): ("", "65.3", "82.9 ± 0.2", "76.7 ± 0.2"),
    ("fashion_mnist", 10): ("", "80.8", "91.0 ± 0.1", "88.8 ± 0.1"),
    ("fashion_mnist", 50): ("", "86.9", "92.4 ± 0.1", "91.0 ± 0.1"),
    ("svhn_cropped", 1): ("", "23.9", "62.4 ± 0.2", "64.3 ± 0.4"),
    ("svhn_cropped", 10): ("", "52.8", "79.3 ± 0.1", "81.1 ± 0.5"),
    ("svhn_cropped", 50): ("", "76.8", "82.0 ± 0.1", "84.3 ± 0.1"),
    ("cifar10", 1): ("40.5 ± 0.4", "26.1", "64.7 ± 0.2", "63.4 ± 0.1"),
    ("cifar10", 10): ("53.1 ± 0.5", "53.6", "75.6 ± 0.2", "75.5 ± 0.1"),
    ("cifar10", 50): ("58.6 ± 0.4", "65.9", "78.2 ± 0.2", "80.6 ± 0.1"),
    ("cifar100", 1): ("", "23.8", "34.9 ± 0.1", "33.3 ± 0.3"),
    ("cifar100", 10): ("", "39.2", "47.9 ± 0.2", "49.5 ± 0.3"),
}

TABLE2_COLUMNS = ("DC/DSA", "KIP to NN", "LS to NN")
TABLE2 = {  # (data set, images a class) -> one number for each of TABLE2_COLUMNS; * where labels were learned
    ("mnist", 1): ("91.7 ± 0.5", "90.1 ± 0.1", "71.0 ± 0.2"),
    ("mnist", 10): ("97.8 ± 0.1", "97.5 ± 0.0", "95.2 ± 0.1"),
    ("mnist", 50): ("99.2 ± 0.1", "98.3 ± 0.1", "97.9 ± 0.0"),
    ("fashion_mnist", 1): ("70.6 ± 0.6", "73.5 ± 0.5*", "61.2 ± 0.1"),
    ("fashion_mnist", 10): ("84.6 ± 0.3", "86.8 ± 0.1", "79.7 ± 0.1"),
    ("fashion_mnist", 50): ("88.7 ± 0.2", "88.0 ± 0.1*", "85.0 ± 0.1"),
    ("svhn_cropped", 1): ("31.2 ± 1.4", "57.3 ± 0.1*", "23.8 ± 0.2"),
    ("svhn_cropped", 10): ("79.2 ± 0.5", "75.0 ± 0.1", "53.2 ± 0.3"),
    ("svhn_cropped", 50): ("84.4 ± 0.4", "80.5 ± 0.1", "76.5 ± 0.3"),
    ("cifar10", 1): ("28.8 ± 0.7", "49.9 ± 0.2", "24.7 ± 0.1"),
    ("cifar10", 10): ("52.1 ± 0.5", "62.7 ± 0.3", "49.3 ± 0.1"),
    ("cifar10", 50): ("60.6 ± 0.5", "68.6 ± 0.2", "62.0 ± 0.2"),
    ("cifar100", 1): ("13.9 ± 0.3", "15.7 ± 0.2*", "11.8 ± 0.2"),
    ("cifar100", 10): ("32.3 ± 0.3", "28.3 ± 0.1", "25.0 ± 0.1"),
}
