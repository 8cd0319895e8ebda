"""Which patient a case is of: visits of one patient must not be split between training and validation."""

import re

# ids of the public sets that hold several visits of a patient: <patient><separator><visit>
VISITS = (
    # BraTS 2015 to 2019: Brats18_TCIA01_131_1, BraTS19_2013_2_1
    r"(brats1[5-9]_.+)_\d+",
    # BIDS: sub-001_ses-01, sub-anna_ses-postop
    r"(sub-[a-z\d]+)_ses-[a-z\d]+",
    # a word for a visit: PatientID_0003_Timepoint_1, Patient-001_week-044-2, P12_visit2
    r"(.*\d.*?)[-_.](?:ses|session|visit|week|month|day|tp|timepoint|fu|followup)[-_.]?\d+(?:[-_.]\d+)*[a-z]?",
    # a letter and a digit, or before and after: p01_T1, P12_V2, 007-preop; not Site2_T1, which may be a patient
    r"(.*\d\d)[-_.][tv]\d",
    r"(.*\d)[-_.](?:baseline|(?:pre|post)(?:[-_.]?op)?)",
    # a date: TCGA-02-0003_1997.06.08, P12_20190304
    r"(.*\d.*?)[-_.](?:19|20)\d\d[-_.]?[01]\d[-_.]?[0-3]\d",
    # a number of three digits or more, then a shorter one: BraTS-GLI-00001-000, BraTS-MEN-RT-0001-1,
    # UPENN-GBM-00001_11, UCSD-PTGBM-0001_01, UCSF-PDGM-0429_FU003d
    r"(.*[-_.]\d{3,})[-_.](?:fu)?\d{1,3}[a-z]?",
)


def patient_of(case_id: str) -> str:
    """Return the id without its visit, or the whole id where it names none.

    Recognises the kinds of names in `VISITS`; BraTS20_Training_001 and BraTS2021_00000 hold one case a patient.
    """
    found = (re.fullmatch(pattern, case_id, re.IGNORECASE) for pattern in VISITS)
    return next((match[1] for match in found if match), case_id)
